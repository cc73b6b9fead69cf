"""FAULTS: mistakes that really happen, each of which the gates must catch on every target it can be made in.

Two that cannot be caught, because they change nothing: a dropped *key* bias (it adds the same number
to all scores of a query, and softmax does not see it), and a finite mask of −10000 wherever a padded
key's score does not exceed every real key's by 9,896 (exp(−104) is 0 in float32). The second is
therefore made in a checkpoint whose scores are that large.
"""

from typing import Any

import numpy as np

from yizhi.converters.targets import TARGETS
from yizhi.model.label_heads import ANSWER, LABEL_CLASS_SUFFIXES, SEQUENCE, TOKENS
from yizhi.model.spec import (
    MASK_VALUE,
    SENTENCE_EMBEDDING,
    TERM_WEIGHTS,
    TOKEN_VECTORS,
    TOKEN_WEIGHTS,
    EncoderSpec,
    MaskedLMHead,
)
from yizhi.parity.code_faults import (
    activate_by_relu,
    center,
    change_head,
    change_mask,
    count_padding,
    cut_after_normalizing,
    drop_boxes,
    drop_residual,
    forget_distances,
    join_masks_otherwise,
    last_norms,
    norms_of_heads,
    pair_otherwise,
    pool_padding,
    pool_with_tanh,
    pool_without_dense,
    pool_without_tanh,
    read_first_token,
    round_to_tf32,
    see_all,
    show_padding,
    skip_adapter,
    skip_dense,
    skip_norm,
    take_residual_from_input,
    turn_values,
    unmask_first_head,
    weigh_padding,
    weigh_without_relu,
)
from yizhi.parity.faults import (
    EMBEDDINGS,
    FIRST_LAYER,
    FP32,
    IMAGE_EMBEDDINGS,
    IMAGE_LAYER,
    INT8,
    LAST_LAYER,
    LAYER,
    LOGITS,
    MATCH,
    POOLER,
    STORED,
    TEXT,
    Fault,
)
from yizhi.parity.int8_faults import (
    quantize_per_batch,
    roll_rows,
    scale_one_channel,
    scale_one_kernel,
    scale_per_batch,
    swap_scales,
)
from yizhi.parity.text_faults import flip_lower_casing, rotate_labels, swap_tokens, swap_tokens_of_old_loaders
from yizhi.parity.weight_faults import (
    change_an_element,
    changed,
    flip_a_sign,
    forget_head,
    forget_norm,
    forget_projection,
    in_all,
    label_head,
    mlm_head,
    move_by_an_ulp,
    move_positions,
    roll_parts,
    roll_vocabulary,
    round_kernels,
    round_mantissa,
    scale_query,
    share_heads_otherwise,
    shift_labels,
    split_heads_wrongly,
    swap_gate,
    swap_heads,
    swap_key_and_value,
    swap_labels,
    swap_layers,
    swap_query_and_key,
    swap_rare_rows,
    there,
    untie_decoder,
    use_unbiased_variance,
    zero_head,
    zero_layer,
)
from yizhi.runtimes.tasks import REPLACED

LABEL_TASKS = (*LABEL_CLASS_SUFFIXES, REPLACED)
_BELOW_INT8 = "smaller than the rounding of int8 itself, which is judged by its own gates"
_SAME_CODE = "the attention is the one of fp32"


def not_fused(spec: EncoderSpec) -> bool:
    """Whether queries, keys and values each have a linear layer."""
    return not spec.layers[0].fused


def same_shapes(spec: EncoderSpec) -> bool:
    """Whether queries, keys, values and what they become have a linear layer each, all of one shape."""
    layer = spec.layers[0]
    parts = (layer.query, layer.key, layer.value, layer.attention_output)
    return not_fused(spec) and {(part.inputs, part.outputs) for part in parts} == {(spec.config.hidden_size,) * 2}


def scores_by_size(spec: EncoderSpec) -> bool:
    """Whether larger queries have larger scores: a norm undoes the change."""
    return not_fused(spec) and spec.layers[0].query_norm is None


# Of faults in an image stream.
_OF_IMAGES: dict[str, Any] = {
    "variant": "interbert",
    "needs": lambda spec: spec.image is not None,
    "targets": tuple(name for name, target in TARGETS.items() if target.images),
    "why_not": "the others have no image stream yet",
}

FAULTS: tuple[Fault, ...] = (
    # Names and roles
    Fault(
        "query and key swapped", "a name table with two lines exchanged", LAYER, swap_query_and_key, needs=same_shapes
    ),
    Fault(
        "key and value swapped", "a fused QKV kernel split in another order", LAYER, swap_key_and_value, needs=not_fused
    ),
    Fault(
        "fused kernel in another order",
        "keys, values and queries, where queries, keys and values are meant",
        LAYER,
        roll_parts,
        variant="modernbert",
        needs=lambda spec: not not_fused(spec),
    ),
    Fault(
        "gate and value swapped",
        "GeGLU's halves: other code activates the second",
        LAYER,
        swap_gate,
        variant="modernbert",
        needs=lambda spec: spec.layers[0].gated,
    ),
    Fault(
        "gate and up swapped",
        "SwiGLU's two linear layers: of one shape, and which is activated no name says",
        LAYER,
        lambda spec, layer, w: w.swap(layer.intermediate.weight, there(layer.up).weight),
        variant="qwen3-no-head",
        needs=lambda spec: spec.layers[0].up is not None,
    ),
    Fault(
        "value and attention output swapped",
        "two square kernels: no shape tells them apart",
        LAYER,
        lambda spec, layer, w: w.swap(layer.value.weight, layer.attention_output.weight),
        needs=same_shapes,
    ),
    Fault(
        "layers swapped",
        "layers sorted as text, or numbered from 1",
        LAYER,
        swap_layers,
        needs=lambda spec: spec.layers[0].attention_norm is not None,  # else the first has a part less than the second
    ),
    Fault("one layer zeroed", "a shard that was not read; tensors left at their initial zeros", LAYER, zero_layer),
    Fault(
        "query bias dropped",
        "a converter for a model without biases",
        LAYER,
        changed(lambda spec, layer: (there(layer.query.bias), np.zeros_like)),
        needs=lambda spec: spec.layers[0].query.biased,
    ),
    Fault(
        "value bias dropped",
        "a Qwen2 loaded as the Llama whose layer it shares: no configuration tells of its biases",
        LAYER,
        changed(lambda spec, layer: (there(layer.value.bias), np.zeros_like)),
        variant="qwen2-no-head",
        needs=lambda spec: not_fused(spec) and spec.layers[0].value.biased,
    ),
    Fault(
        "intermediate bias dropped",
        "a fused linear layer exported without its addition",
        LAYER,
        changed(lambda spec, layer: (there(layer.intermediate.bias), np.zeros_like)),
        needs=lambda spec: spec.layers[0].intermediate.biased,
    ),
    Fault(
        "attention output transposed",
        "[in, out] taken for [out, in]: square, so every shape fits",
        LAYER,
        changed(lambda spec, layer: (layer.attention_output.weight, np.transpose)),
        needs=lambda spec: spec.layers[0].attention_output.inputs == spec.config.hidden_size,
    ),
    Fault(
        "query transposed",
        "the same",
        LAYER,
        changed(lambda spec, layer: (layer.query.weight, np.transpose)),
        needs=same_shapes,
    ),
    Fault(
        "LayerNorm scale and offset swapped",
        "gamma and beta renamed the wrong way round",
        LAYER,
        lambda spec, layer, w: w.swap(layer.output_norm.weight, there(layer.output_norm.bias)),
        needs=lambda spec: spec.layers[0].output_norm.biased,
    ),
    Fault(
        "LayerNorm left at its initial values",
        "gamma and beta not recognized, and the framework went on with a warning",
        LAYER,
        lambda spec, layer, w: forget_norm(layer.output_norm, w),
    ),
    Fault(
        "one sign flipped",
        "a bit lost on the way, in a file without a checksum",
        LAYER,
        flip_a_sign,
        targets=FP32,
        why_not="one weight of thousands turns a vector no more than rounding all of them may",
    ),
    # Vocabulary and embeddings
    Fault(
        "vocabulary rows shifted",
        "a vocabulary that begins at 1",
        EMBEDDINGS,
        lambda spec, layer, w: roll_vocabulary(spec, w, 0),
    ),
    Fault(
        "vocabulary rows shifted from the middle on",
        "vocab.txt split at U+2028, a line break to str.splitlines",
        EMBEDDINGS,
        lambda spec, layer, w: roll_vocabulary(spec, w, spec.word_embeddings.rows // 2),
    ),
    Fault(
        "positions off by one",
        "positions counted from 1, as after RoBERTa's padding index",
        EMBEDDINGS,
        changed(lambda spec, layer: (there(spec.position_embeddings).weight, lambda table: np.roll(table, -1, axis=0))),
        needs=lambda spec: spec.position_embeddings is not None,
    ),
    Fault(
        "positions missing",
        "position_ids constant-folded to zeros by a tracing exporter",
        EMBEDDINGS,
        changed(
            lambda spec, layer: (
                there(spec.position_embeddings).weight,
                lambda table: np.broadcast_to(table[0], table.shape),
            )
        ),
        needs=lambda spec: spec.position_embeddings is not None,
    ),
    Fault(
        "positions not offset",
        "BERT's 0, 1, 2, … where the table's first rows are padding's",
        EMBEDDINGS,
        lambda spec, layer, w: move_positions(spec, w, 1),
        variant="roberta",
        needs=lambda spec: spec.padding_idx is not None,
    ),
    Fault(
        "padding counted in positions",
        "0, 1, 2, … with an offset, as if every row began with a text: wrong only where padding is not at the end",
        EMBEDDINGS,
        lambda spec, layer, w: move_positions(spec, w, -1),
        code={"position_ids": count_padding},
        variant="xlm-roberta",
        needs=lambda spec: spec.padding_idx is not None,
    ),
    Fault(
        "token types missing",
        "an exporter that drops token_type_ids: every token is of the first segment",
        EMBEDDINGS,
        changed(lambda spec, layer: (there(spec.token_type_embeddings).weight, lambda table: table[[0] * len(table)])),
        needs=lambda spec: spec.token_type_embeddings is not None and spec.token_type_embeddings.rows > 1,
    ),
    Fault(
        "token types swapped",
        "segments numbered 1 and 0",
        EMBEDDINGS,
        changed(lambda spec, layer: (there(spec.token_type_embeddings).weight, lambda table: table[::-1])),
        needs=lambda spec: spec.token_type_embeddings is not None and spec.token_type_embeddings.rows > 1,
    ),
    Fault(
        "task type missing",
        "a BERT converter, to which ERNIE's fourth table is unknown",
        EMBEDDINGS,
        changed(lambda spec, layer: (there(spec.task_type_embeddings).weight, np.zeros_like)),
        variant="ernie",
        needs=lambda spec: spec.task_type_embeddings is not None,
    ),
    Fault(
        "task type of another row",
        "tasks numbered from 1",
        EMBEDDINGS,
        changed(lambda spec, layer: (there(spec.task_type_embeddings).weight, lambda table: table[::-1])),
        variant="ernie",
        needs=lambda spec: spec.task_type_embeddings is not None and spec.task_type_embeddings.rows > 1,
    ),
    Fault(
        "embeddings' LayerNorm skipped",
        "it is the encoder's in some code and the embeddings' in other",
        EMBEDDINGS,
        code={"layer_norm": skip_norm(lambda spec: [spec.embeddings_norm])},
    ),
    Fault(
        "embeddings' projection without its bias",
        "factorised embeddings taken for a product of two tables",
        EMBEDDINGS,
        changed(lambda spec, layer: (there(there(spec.embeddings_projection).bias), np.zeros_like)),
        variant="albert",
        needs=lambda spec: spec.embeddings_projection is not None,
    ),
    # Attention
    Fault(
        "attention scale missing",
        "√d folded into the query's kernel by one side only",
        LAYER,
        lambda spec, layer, w: scale_query(spec, layer, w, 0.5),
        needs=scores_by_size,
    ),
    Fault(
        "attention scaled twice",
        "the same, the other way",
        LAYER,
        lambda spec, layer, w: scale_query(spec, layer, w, -0.5),
        needs=scores_by_size,
    ),
    Fault(
        "heads split in the wrong order",
        "reshape to [d, heads] where [heads, d] is meant",
        LAYER,
        split_heads_wrongly,
        needs=not_fused,
    ),
    Fault(
        "two heads of the query exchanged",
        "kernels sharded over devices and joined in another order",
        LAYER,
        swap_heads,
        needs=not_fused,
    ),
    Fault(
        "one head's values zero",
        "a shard that was never filled, or a pruned head",
        LAYER,
        zero_head,
        needs=not_fused,
    ),
    Fault(
        "mask ignored",
        "attention_mask is an input that nothing reads",
        FIRST_LAYER,
        code={"attention": change_mask(0.0)},
    ),
    Fault(
        "mask ignored for one head",
        "a mask broadcast along the wrong axis",
        FIRST_LAYER,
        code={"attention": unmask_first_head},
    ),
    Fault(
        "mask of −10000",
        "what BERT's first code added; not enough where scores are large",
        LAST_LAYER,
        code={"attention": change_mask(-10000 / MASK_VALUE)},
        targets=FP32,
        why_not=_SAME_CODE,
        variant="loud",
    ),
    Fault(
        "tokens see those after them",
        "a decoder exported as an encoder: the causal mask is in no weight and in no input",
        FIRST_LAYER,
        code={"attention": see_all},
        variant="qwen3-no-head",
        needs=lambda spec: spec.causal,
    ),
    Fault(
        "key and value heads shared otherwise",
        "heads tiled where each is to be repeated: head h of the queries with head h mod K",
        LAYER,
        share_heads_otherwise,
        variant="qwen3-no-head",
        needs=lambda spec: 1 < spec.config.num_key_value_heads < spec.config.num_attention_heads,
    ),
    Fault(
        "norms of queries and keys skipped",
        "a Qwen3 in the code of Qwen2",
        FIRST_LAYER,
        code={"layer_norm": skip_norm(norms_of_heads)},
        variant="qwen3-no-head",
        needs=lambda spec: spec.layers[0].query_norm is not None,
    ),
    Fault(
        "relative positions missing",
        "a NEZHA loaded as a BERT without positions: it has no table, so no tensor is left over",
        FIRST_LAYER,
        code={"attention": forget_distances},
        variant="nezha",
        needs=lambda spec: spec.farthest is not None,
    ),
    Fault(
        "distances cut off elsewhere",
        "`max_relative_position` left at a default",
        FIRST_LAYER,
        config={"max_relative_position": 9},
        variant="nezha",
        needs=lambda spec: spec.farthest is not None,
    ),
    # Rotary positions and windows
    Fault(
        "rotary base of other layers",
        "one base for all layers, where local ones have their own",
        FIRST_LAYER,
        config={"global_rope_theta": 10_000.0},
        variant="modernbert",
        needs=lambda spec: len(spec.rotary_bases) > 1,
    ),
    Fault(
        "rotary pairs in halves",
        "RoFormer turns elements 2i and 2i + 1, most later code i and i + d / 2",
        FIRST_LAYER,
        code={"rotary": pair_otherwise},
        variant="roformer",
        needs=lambda spec: spec.layers[0].rotary is not None,
    ),
    Fault(
        "rotary positions in values",
        "`rotary_value` of the configuration not read",
        FIRST_LAYER,
        code={"attention": turn_values},
        variant="roformer",
        needs=lambda spec: spec.layers[0].rotary is not None,
    ),
    Fault(
        "window one wider",
        "tokens less than so far away, where those up to so far are meant",
        LAYER,
        config={"local_attention": 8},
        variant="modernbert",
        needs=lambda spec: spec.windows == (3,),  # the small checkpoint's
    ),
    Fault("residual dropped", "a graph rewrite that lost an edge", FIRST_LAYER, code={"attention": drop_residual}),
    # Adapters
    Fault(
        "adapter skipped",
        "a class that knows no adapters: it warns of tensors that it does not use, and goes on",
        FIRST_LAYER,
        code={"add_and_norm": skip_adapter},
        variant="bert-double_seq_bn",
    ),
    Fault(
        "adapter's residual from the wrong place",
        "Houlsby's and Pfeiffer's adapters, and parallel ones, each take another",
        FIRST_LAYER,
        code={"adapter": take_residual_from_input},
        variant="bert-double_seq_bn",
    ),
    # Arithmetic
    Fault(
        "GELU by tanh",
        "a framework's default approximation, or old Google code",
        FIRST_LAYER,
        config={"hidden_act": "gelu_new"},
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    Fault(
        "ReLU for GELU", "a fused activation that the kernel does not have", FIRST_LAYER, config={"hidden_act": "relu"}
    ),
    Fault(
        "epsilon 1e-5",
        "PyTorch's default, where BERT has 1e-12",
        EMBEDDINGS,
        config={"layer_norm_eps": 1e-5},
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    Fault(
        "unbiased variance in LayerNorm",
        "UER-py's, and torch.std's default",
        LAYER,
        use_unbiased_variance,
        targets=FP32,
        why_not="it scales vectors by 1.6 %, and int8 is judged by their direction",
    ),
    Fault(
        "LayerNorm for RMSNorm",
        "a layer of the framework that takes the mean off, too",
        FIRST_LAYER,
        code={"layer_norm": center},
        variant="qwen3-no-head",
        needs=lambda spec: not spec.layers[0].output_norm.centred,
    ),
    Fault(
        "layers' last LayerNorm skipped",
        "an encoder whose norms are placed before, in code written for after",
        FIRST_LAYER,
        code={"layer_norm": skip_norm(last_norms)},
    ),
    Fault(
        "final LayerNorm skipped",
        "models with norms before each part have one more at the end",
        LAST_LAYER,
        code={"layer_norm": skip_norm(lambda spec: [spec.final_norm])},
        variant="megatron-bert",
    ),
    Fault(
        "weights through float16",
        "a checkpoint saved in half precision on the way",
        EMBEDDINGS,
        in_all(lambda array: array.astype(np.float16)),
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    Fault(
        "weights through bfloat16",
        "a checkpoint saved from a training run in bfloat16",
        EMBEDDINGS,
        in_all(lambda array: round_mantissa(array, 7)),
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    Fault(
        "TF32 left on",
        "a GPU's default: products of operands with 10 bits of mantissa",
        FIRST_LAYER,
        lambda spec, layer, w: round_kernels(spec, w),
        code={"linear": round_to_tf32},
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    # Heads
    Fault(
        "decoder untied",
        "a framework that finds no decoder and initializes one",
        LOGITS,
        untie_decoder,
        config={"tie_word_embeddings": False},
        tasks=("fill-mask", "text-generation"),
    ),
    Fault(
        "MLM transform left at random",
        "a published checkpoint whose head was never trained",
        LOGITS,
        forget_head,
        tasks=("fill-mask",),
    ),
    Fault(
        "decoder bias dropped",
        "`cls.predictions.bias` not recognized as the decoder's",
        LOGITS,
        changed(lambda spec, layer: (there(mlm_head(spec).decoder_bias), np.zeros_like)),
        needs=lambda spec: isinstance(spec.head, MaskedLMHead) and spec.head.decoder_bias is not None,
        tasks=("fill-mask",),
    ),
    Fault(
        "MLM LayerNorm left at its initial values",
        "gamma and beta of the head not recognized",
        LOGITS,
        lambda spec, layer, w: forget_norm(there(mlm_head(spec).norm), w),
        tasks=("fill-mask",),
    ),
    Fault("pooler without tanh", "the linear layer exported alone", POOLER, code={"pooler": pool_without_tanh}),
    Fault(
        "pooler transposed",
        "square, and used by nobody until a classifier is trained on it",
        POOLER,
        changed(lambda spec, layer: (there(spec.pooler).linear.weight, np.transpose)),
        needs=lambda spec: spec.image is None,  # beside an image it is not square
    ),
    # An image beside the text
    Fault(
        "boxes dropped",
        "regions told apart by their features alone",
        IMAGE_EMBEDDINGS,
        code={"region_embeddings": drop_boxes},
        **_OF_IMAGES,
    ),
    Fault(
        "masks of tokens and regions swapped",
        "states joined in one order, and masks in the other",
        FIRST_LAYER,
        code={"join_masks": join_masks_otherwise},
        **_OF_IMAGES,
    ),
    Fault(
        "image's heads counted as the text's",
        "one number of heads for all layers",
        IMAGE_LAYER,
        config={"v_num_attention_heads": 4},
        **_OF_IMAGES,
    ),
    Fault(
        "pooler with tanh",
        "BERT's pooler, where both have ReLU",
        POOLER,
        code={"pooler": pool_with_tanh},
        **_OF_IMAGES,
    ),
    Fault(
        "pooled vectors added",
        "`fusion_method` left at another default",
        MATCH,
        config={"fusion_method": "sum"},
        **_OF_IMAGES,
    ),
    # Heads that give labels
    Fault(
        "two labels swapped",
        "`id2label` sorted as text, or taken from another fine-tuning",
        LOGITS,
        swap_labels,
        variant="bert-classifier",
        tasks=(SEQUENCE, TOKENS),
    ),
    Fault(
        "labels off by one",
        "a label such as `O` or [PAD] counted on one side only",
        LOGITS,
        shift_labels,
        variant="bert-tagger",
        tasks=(SEQUENCE, TOKENS),
    ),
    Fault(
        "start and end swapped",
        "`qa_outputs` split in the other order",
        LOGITS,
        swap_labels,
        variant="bert-reader",
        tasks=(ANSWER,),
    ),
    Fault(
        "classifier bias dropped",
        "a projection exported without its addition",
        LOGITS,
        changed(lambda spec, layer: (there(label_head(spec).projection.bias), np.zeros_like)),
        variant="bert-classifier",
        tasks=LABEL_TASKS,
    ),
    Fault(
        "classifier left at random",
        "a head under a name that was not recognized: the framework initialized one and went on with a warning",
        LOGITS,
        forget_projection,
        variant="electra-tagger",
        tasks=LABEL_TASKS,
    ),
    Fault(
        "classifier over the first token's state",
        "BERT's classifiers read the pooler's output, ELECTRA's the first token",
        LOGITS,
        code={"linear_head": change_head(read_first_token)},
        variant="bert-classifier",
        tasks=(SEQUENCE,),
    ),
    Fault(
        "dense layer of ELECTRA's head left out",
        "a head taken for BERT's, which is a projection alone",
        LOGITS,
        code={"linear_head": change_head(skip_dense)},
        variant="electra-regression",
        tasks=LABEL_TASKS,
    ),
    Fault(
        "ReLU for GELU in ELECTRA's head",
        "an activation that is not `hidden_act` and is in no configuration",
        LOGITS,
        code={"linear_head": change_head(activate_by_relu)},
        targets=FP32,
        why_not=_BELOW_INT8,
        variant="electra-classifier",
        tasks=LABEL_TASKS,
    ),
    Fault(
        "discriminator's dense layer transposed",
        "square, as every dense layer of a head",
        LOGITS,
        changed(lambda spec, layer: (there(label_head(spec).dense).linear.weight, np.transpose)),
        variant="electra-discriminator",
        tasks=(REPLACED,),
    ),
    # What retrieval takes
    Fault(
        "last token taken at the end of the row",
        "x[:, -1]: right while all rows are of one length, or padded on the left",
        SENTENCE_EMBEDDING,
        code={"sentence_embedding": pool_padding},
        variant="bert-last",
    ),
    Fault(
        "vector cut after it is normalized",
        "`truncate_dim` of sentence-transformers, which comes after Normalize",
        SENTENCE_EMBEDDING,
        code={"sentence_embedding": cut_after_normalizing},
        targets=FP32,
        why_not="the direction is the same, and int8 is judged by that",
        variant="bert-dimensions",
    ),
    Fault(
        "Dense module left out",
        "a server that pools by itself, and does not know all modules",
        SENTENCE_EMBEDDING,
        code={"sentence_embedding": pool_without_dense},
        variant="albert-dense",
    ),
    Fault(
        "Dense module's bias dropped",
        "a projection taken for a matrix alone",
        SENTENCE_EMBEDDING,
        changed(lambda spec, layer: (f"{there(spec.pooling).dense[0].linear.name}.bias", np.zeros_like)),
        variant="albert-dense",
        needs=lambda spec: spec.pooling is not None and bool(spec.pooling.dense),
    ),
    Fault(
        "weights of tokens without ReLU",
        "`sparse_linear` exported as a layer, and its activation in nobody's graph",
        TOKEN_WEIGHTS,
        code={"token_weights": weigh_without_relu},
        variant="bert-m3",
    ),
    Fault(
        "mask ignored in weights of tokens",
        "a head over tokens exported without the mask",
        TOKEN_WEIGHTS,
        code={"token_weights": show_padding},
        variant="albert-m3",
    ),
    Fault(
        "mask ignored in vectors of tokens",
        "the same; normalized, padding's vectors look as any other",
        TOKEN_VECTORS,
        code={"token_vectors": show_padding},
        variant="bert-m3",
    ),
    Fault(
        "mask ignored in weights of the vocabulary",
        "a maximum over the whole row",
        TERM_WEIGHTS,
        code={"term_weights": weigh_padding},
        variant="bert-splade",
        tasks=("fill-mask",),
    ),
    # Text
    Fault(
        "two tokens swapped",
        "a vocabulary sorted again, or another model's of the same size",
        TEXT,
        artifact=swap_tokens,
    ),
    Fault(
        "two tokens swapped in vocab.txt alone",
        "a file replaced that only slow tokenizers read",
        TEXT,
        artifact=swap_tokens_of_old_loaders,
    ),
    Fault(
        "lower-casing flipped",
        "`do_lower_case` lost, and a default taken",
        TEXT,
        artifact=flip_lower_casing,
    ),
    Fault(
        "labels rotated in config.json",
        "a label map written for another order of the classes",
        TEXT,
        artifact=rotate_labels,
        variant="bert-classifier",
        tasks=LABEL_TASKS,
    ),
    # What no output shows
    Fault(
        "two rare rows of the embeddings swapped",
        "a vocabulary patched after training, in one artifact alone",
        STORED,
        swap_rare_rows,
        variant="bert-no-head",
    ),
    Fault(
        "one element of an unseen row changed",
        "a bad sector, a cosmic ray, a hand",
        STORED,
        change_an_element,
        variant="bert-no-head",
    ),
    Fault(
        "a LayerNorm moved by one ulp",
        "weights through decimal text, or another library's rounding",
        STORED,
        move_by_an_ulp,
        variant="bert-no-head",
    ),
    # int8
    Fault(
        "one channel's scale wrong",
        "a scale computed over the wrong rows, or overwritten",
        LAYER,
        artifact=scale_one_channel,
        targets=INT8,
        why_not="fp32 has no scales",
    ),
    Fault(
        "one kernel's scales 3 % too large",
        "a scale found from other weights than those that it scales, or rounded",
        LAYER,
        artifact=scale_one_kernel,
        targets=INT8,
        why_not="fp32 has no scales",
    ),
    Fault(
        "scales of two kernels swapped",
        "two vectors of equal length",
        LAYER,
        artifact=swap_scales,
        targets=INT8,
        why_not="fp32 has no scales",
    ),
    Fault(
        "scales one row off",
        "an off-by-one between quantized rows and their scales",
        LAYER,
        artifact=roll_rows,
        targets=INT8,
        why_not="fp32 has no scales",
    ),
    Fault(
        "activations scaled per batch",
        "ONNX Runtime's usual dynamic quantization: a sentence's answer depends on its neighbours",
        FIRST_LAYER,
        graph={"Int8Graph.quantize": quantize_per_batch, "Int8Weights.magnitudes": scale_per_batch},
        targets=("onnx-int8", "openvino-int8"),
        why_not="fp32 has no scales, and LiteRT's kernels find one for each row",
    ),
)
