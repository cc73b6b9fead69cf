"""The families of encoders: how each one names its tensors. One entry of FAMILIES per `model_type`.

A family is a table of names; shapes and roles are the same for all and follow from the
configuration. docs/adding-an-architecture.md walks through adding one.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from yizhi.errors import InputError
from yizhi.model.config import EncoderConfig
from yizhi.model.family import DiscriminatorNames, Family, ImageNames, LayerNames, MaskedLMNames
from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES, LABEL_HEADS, LabelHeadNames, label_head, task_of
from yizhi.model.rotary import ROFORMER_TABLE
from yizhi.model.spec import (
    Dense,
    EncoderSpec,
    Linear,
    Parameter,
    parameters_of,
)

# What transformers' class for a task ends with.
CLASS_SUFFIXES = {
    "features": "Model",
    "fill-mask": "ForMaskedLM",
    "text-generation": "ForCausalLM",
    "replaced-token-detection": "ForPreTraining",
    **LABEL_CLASS_SUFFIXES,
}

NEXT_SENTENCE = "the next-sentence head; no output uses it"
SENTENCE_ORDER = "the sentence-order head; no output uses it"
# Why a tensor is ignored that somebody may miss.
DROPPED_HEADS = {NEXT_SENTENCE, SENTENCE_ORDER}

_UNUSED_BUFFERS = {
    "*embeddings.position_ids": "a buffer holding 0, 1, 2, …",
    "*prompt_tuning.base_model_embeddings.weight": "the word embeddings once more, as the adapters library saves them",
}

POSITIONS_TABLE = "a table of sines and cosines that follows from its formula"

BERT = Family(
    class_name="Bert",
    prefix="bert",
    word_embeddings="bert.embeddings.word_embeddings",
    position_embeddings="bert.embeddings.position_embeddings",
    token_type_embeddings="bert.embeddings.token_type_embeddings",
    embeddings_norm="bert.embeddings.LayerNorm",
    layer="bert.encoder.layer.{block}",
    layer_names=LayerNames(
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        intermediate="intermediate.dense",
        output="output.dense",
        output_norm="output.LayerNorm",
        attention_adapters="attention.output.adapters",
        output_adapters="output.adapters",
    ),
    pooler="bert.pooler.dense",
    masked_lm_names=MaskedLMNames(
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        untied_decoder="cls.predictions.decoder",
        decoder_bias="cls.predictions.bias",
        decoder_bias_alias="cls.predictions.decoder.bias",
    ),
    ignored={**_UNUSED_BUFFERS, "cls.seq_relationship.*": NEXT_SENTENCE},
)

# Qwen3 without the norms of queries and keys. Heads that give labels are not supported.
QWEN2 = Family(
    class_name="Qwen2",
    prefix="model",
    word_embeddings="model.embed_tokens",
    layer="model.layers.{block}",
    layer_names=LayerNames(
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention_output="self_attn.o_proj",
        attention_norm="input_layernorm",
        intermediate="mlp.gate_proj",
        up="mlp.up_proj",
        output="mlp.down_proj",
        output_norm="post_attention_layernorm",
    ),
    norm_first=True,
    centred=False,
    causal=True,
    final_norm="model.norm",
    masked_lm_names=MaskedLMNames(untied_decoder="lm_head"),
    label_heads={},
)

ROBERTA = BERT.under(
    "roberta",
    class_name="Roberta",
    masked_lm_names=MaskedLMNames(
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        untied_decoder="lm_head.decoder",
        decoder_bias="lm_head.bias",
        decoder_bias_alias="lm_head.decoder.bias",
        activation="gelu_erf",  # fixed in transformers' RobertaLMHead
    ),
    label_heads={
        **LABEL_HEADS,
        "text-classification": LabelHeadNames(
            over="first_token",
            projection="classifier.out_proj",
            dense="classifier.dense",
            activation="tanh",  # fixed in transformers' RobertaClassificationHead
        ),
    },
    ignored=_UNUSED_BUFFERS,
)

FAMILIES: Mapping[str, Family] = {
    "bert": BERT,
    "megatron-bert": replace(
        BERT,
        class_name="MegatronBert",
        embeddings_norm=None,
        layer_names=replace(BERT.layer_names, attention_norm="attention.ln", output_norm="ln"),
        norm_first=True,
        final_norm="bert.encoder.ln",
    ),
    "albert": Family(
        class_name="Albert",
        prefix="albert",
        word_embeddings="albert.embeddings.word_embeddings",
        position_embeddings="albert.embeddings.position_embeddings",
        token_type_embeddings="albert.embeddings.token_type_embeddings",
        embeddings_norm="albert.embeddings.LayerNorm",
        embeddings_projection="albert.encoder.embedding_hidden_mapping_in",
        projects_always=True,
        layer="albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}",
        layer_names=LayerNames(
            query="attention.query",
            key="attention.key",
            value="attention.value",
            attention_output="attention.dense",
            attention_norm="attention.LayerNorm",
            intermediate="ffn",
            output="ffn_output",
            output_norm="full_layer_layer_norm",
            attention_adapters="attention.attention_adapters.adapters",
            output_adapters="output_adapters.adapters",
        ),
        swaps_attention=True,
        pooler="albert.pooler",
        masked_lm_names=MaskedLMNames(
            dense="predictions.dense",
            norm="predictions.LayerNorm",
            untied_decoder="predictions.decoder",
            decoder_bias="predictions.bias",
            decoder_bias_alias="predictions.decoder.bias",
        ),
        ignored={**_UNUSED_BUFFERS, "sop_classifier.*": SENTENCE_ORDER},
    ),
    "electra": BERT.under(
        "electra",
        class_name="Electra",
        embeddings_projection="electra.embeddings_project",
        pooler=None,
        masked_lm_names=MaskedLMNames(
            dense="generator_predictions.dense",
            norm="generator_predictions.LayerNorm",
            untied_decoder="generator_lm_head",
            decoder_bias="generator_lm_head.bias",
            activation="gelu_erf",  # fixed in transformers' ElectraGeneratorPredictions
        ),
        discriminator=DiscriminatorNames(
            dense="discriminator_predictions.dense", projection="discriminator_predictions.dense_prediction"
        ),
        label_heads={
            **LABEL_HEADS,
            "text-classification": LabelHeadNames(
                over="first_token",
                projection="classifier.out_proj",
                dense="classifier.dense",
                activation="gelu_erf",  # fixed in transformers' ElectraClassificationHead
            ),
        },
        ignored=_UNUSED_BUFFERS,
    ),
    "ernie": BERT.under("ernie", class_name="Ernie", task_type_embeddings="ernie.embeddings.task_type_embeddings"),
    "nezha": BERT.under(
        "nezha",
        class_name="Nezha",
        position_embeddings=None,
        ignored={**BERT.ignored, "*.relative_positions_encoding.positions_encoding": POSITIONS_TABLE},
    ),
    "roberta": ROBERTA,
    "xlm-roberta": replace(ROBERTA, class_name="XLMRoberta"),
    "roformer": BERT.under(
        "roformer",
        class_name="RoFormer",
        position_embeddings=None,
        embeddings_projection="roformer.embeddings_project",
        layer_names=replace(BERT.layer_names, attention_adapters=None, output_adapters=None),
        pooler=None,
        interleaved=True,
        label_heads={
            **LABEL_HEADS,
            "text-classification": LabelHeadNames(
                over="first_token", projection="classifier.out_proj", dense="classifier.dense"
            ),
        },
        ignored={
            ROFORMER_TABLE: POSITIONS_TABLE,
            "cls.seq_relationship.*": NEXT_SENTENCE,
        },
    ),
    "modernbert": Family(
        class_name="ModernBert",
        prefix="model",
        word_embeddings="model.embeddings.tok_embeddings",
        embeddings_norm="model.embeddings.norm",
        layer="model.layers.{block}",
        layer_names=LayerNames(
            query="attn.Wqkv",
            key="attn.Wqkv",
            value="attn.Wqkv",
            attention_output="attn.Wo",
            attention_norm="attn_norm",
            intermediate="mlp.Wi",
            output="mlp.Wo",
            output_norm="mlp_norm",
        ),
        norm_first=True,
        first_attention_norm=False,
        final_norm="model.final_norm",
        gated=True,
        masked_lm_names=MaskedLMNames(
            dense="head.dense", norm="head.norm", untied_decoder="decoder", decoder_bias="decoder.bias"
        ),
        label_heads={
            task: replace(head, projection="classifier", dense="head.dense", norm="head.norm")
            for task, head in LABEL_HEADS.items()
        },
    ),
    "qwen2": QWEN2,
    "qwen3": replace(
        QWEN2,
        class_name="Qwen3",
        layer_names=replace(QWEN2.layer_names, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"),
    ),
    # Of layers 0 … 11, the first half is shared with the image. Heads that give labels are not supported.
    "interbert": replace(
        BERT,
        class_name="InterBert",
        layer_names=replace(BERT.layer_names, attention_adapters=None, output_adapters=None),
        pooler="bert.t_pooler.dense",
        pooler_activation="relu",
        image=ImageNames(
            features="bert.v_embeddings.image_embeddings",
            boxes="bert.v_embeddings.image_location_embeddings",
            norm="bert.v_embeddings.LayerNorm",
            layer="bert.encoder.v_layer.{block}",
            pooler="bert.v_pooler.dense",
            region_dense="cls.imagePredictions.transform.dense",
            region_norm="cls.imagePredictions.transform.LayerNorm",
            region_projection="cls.imagePredictions.decoder",
            match="cls.bi_seq_relationship",
        ),
        label_heads={},
        ignored={
            **_UNUSED_BUFFERS,
            **{
                f"{name}.*": "a head of InterBertForVLTasks; no output uses it"
                for name in ("vil_prediction", "vil_logit", "vision_logit", "linguisic_logit")
            },
        },
    ),
}


def class_names(family: Family) -> dict[str, str]:
    """What transformers' classes of this family are called, by task; a causal one's for words are not the others'."""
    others = {"fill-mask", "text-generation"} - {family.lm_task}
    return {task: family.class_name + end for task, end in CLASS_SUFFIXES.items() if task not in others}


# BGE-M3's heads over the last hidden states, as FlagEmbedding names them.
SPARSE, MULTI_VECTOR = "sparse_linear", "colbert_linear"


def build_spec(config: EncoderConfig, names: Collection[str]) -> EncoderSpec:
    """The spec of a checkpoint with tensors of these canonical names.

    Raises InputError if the configuration names a head without tensors, if a head's tensors have no name in the
    configuration, and if the labels contradict themselves.
    """
    spec, hidden = _build_spec(config, names), config.hidden_size
    sparse = Dense(Linear(SPARSE, hidden, 1), "relu")
    vectors = Linear(MULTI_VECTOR, hidden, config.colbert_dim)
    return replace(
        spec,
        token_weights=sparse if {sparse.linear.weight, sparse.linear.bias} & set(names) else None,
        token_vectors=vectors if {vectors.weight, vectors.bias} & set(names) else None,
    )


def _build_spec(config: EncoderConfig, names: Collection[str]) -> EncoderSpec:
    family = FAMILIES[config.model_type]
    has_pooler = family.pooler is not None and any(name.startswith(f"{family.pooler}.") for name in names)
    task = task_of(config.architecture)
    if task and not family.label_heads:
        raise InputError("checkpoint", f"config.json says {config.architecture}: a head that is not supported")
    if task and task in family.label_heads:
        head = label_head(family.label_heads[task], task, config)
        _check_presence(config, parameters_of(head), names)
        return replace(family.encoder(config, has_pooler or head.over == "pooler"), task=task, head=head)
    spec = family.encoder(config, has_pooler)
    masked_lm, replaced_token = family.masked_lm(config), family.replaced_token(config)
    parts = {masked_lm.decoder_bias, *(parameter.name for parameter in masked_lm.transform())}
    if family.causal and not config.tie_word_embeddings:
        parts.add(masked_lm.decoder)
    # Of a tied decoder alone, no tensor tells.
    said = family.causal and (config.architecture or "").endswith(CLASS_SUFFIXES[family.lm_task])
    if said or parts & set(names):
        return replace(spec, task=family.lm_task, head=masked_lm)
    if replaced_token and {parameter.name for parameter in parameters_of(replaced_token)} & set(names):
        return replace(spec, task="replaced-token-detection", head=replaced_token)
    _check_no_label_head(config, family, names)
    if config.architecture and config.architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        _check_presence(config, masked_lm.transform(), names)
    return spec


def _check_presence(config: EncoderConfig, head: Iterable[Parameter], names: Collection[str]) -> None:
    """Raise InputError unless some tensor of this head is present. Missing tensors are reported by name later."""
    expected = [parameter.name for parameter in head]
    if not set(expected) & set(names):
        raise InputError(
            "checkpoint",
            f"config.json says {config.architecture}, but none of that head's tensors is present "
            f"(expected {expected[0]}, …). For an encoder without a head, set architectures to "
            f"the bare model's class",
        )


def _check_no_label_head(config: EncoderConfig, family: Family, names: Collection[str]) -> None:
    """Raise InputError for a label head that `architectures` does not name: its name alone leaves the task open."""
    classes = [family.class_name + LABEL_CLASS_SUFFIXES[task] for task in family.label_heads]
    for head in family.label_heads.values():
        if f"{head.projection}.weight" in names:
            raise InputError(
                "checkpoint",
                f"{head.projection}.weight belongs to a head that gives labels; expected architectures in config.json "
                f"to say which, {' or '.join(classes)}; found {config.architecture or 'none'}",
            )


def full_spec(config: EncoderConfig) -> EncoderSpec:
    """The spec of a complete checkpoint, with pooler and the head that `architectures` names (default: masked LM)."""
    family = FAMILIES[config.model_type]
    spec = family.encoder(config, has_pooler=True)
    wanted = config.architecture or ""
    task = task_of(wanted)
    if task and task in family.label_heads:
        return replace(spec, task=task, head=label_head(family.label_heads[task], task, config))
    replaced_token = family.replaced_token(config)
    if wanted.endswith("Model"):
        return spec
    if replaced_token and wanted.endswith("ForPreTraining"):
        return replace(spec, task="replaced-token-detection", head=replaced_token)
    return replace(spec, task=family.lm_task, head=family.masked_lm(config))
