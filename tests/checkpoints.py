"""Small random checkpoints of every family, written from `EncoderSpec.parameters()`.

Every tensor is random and asymmetric, biases and LayerNorm too: zeros, ones and symmetric matrices
hide swapped, dropped and untransposed parameters. A tensor's values depend on its canonical name
and the seed alone, so variants of one checkpoint (sharded, without pooler, …) hold equal tensors.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from tests.sentence_folders import SENTENCE_VARIANTS, write_modules
from yizhi.model.architectures import CLASS_SUFFIXES, FAMILIES, MULTI_VECTOR, SPARSE, build_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import EMBEDDING, KERNEL, NORM_SCALE, EncoderSpec, Parameter
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.checkpoint import INDEX, WEIGHTS
from yizhi.reading.safetensors_file import SAFETENSORS_TYPES, write_safetensors
from yizhi.runtimes.tokenization import Tokenizer

Tensors = dict[str, NDArray]
# Of all tensors, or of each by its name.
Dtype = str | Callable[[str], str]

_CHARACTERS = (
    "的一是不在有人这个上中大国北京首都天地好快酒店服务很房间干净早餐学习机器语言模型山水花月春风雨我你他她们来去说"
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
VOCAB = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *_CHARACTERS,
    *_LETTERS,
    *("hello", "world", "##ing", "##ed", "##s", "##a", "##b", "##1", "##的", "##2"),
    *("。", "，", "！", "？", ".", ",", "!", "-", "(", ")"),
]

_BERT_NAMES = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
_WORDS = ("hello", "world", "北京", "中国", "首都", "语言", "模型")
_FAIRSEQ_FRAME = {
    "single": "<s> $A </s>",
    "pair": "<s> $A </s> </s> $B </s>",
    "special_tokens": [("<s>", 0), ("</s>", 2)],
}


def unigram_tokenizer() -> tokenizers.Tokenizer:
    """A small tokenizer as XLM-R's: Unigram over `▁`, ids of fairseq, type 0 for both texts of a pair."""
    pieces = ["▁", *(f"▁{word}" for word in _WORDS), *_WORDS, "ing", *_CHARACTERS, *_LETTERS, *"。，！？.,!-()"]
    scored = [(token, 0.0) for token in _FAIRSEQ]
    scored += [(piece, -2 - rank / 16 - 4 * (len(piece) == 1)) for rank, piece in enumerate(pieces)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([*scored, ("<mask>", 0.0)], 3, byte_fallback=False))
    made.normalizer = tokenizers.normalizers.NFKC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()  # a piece's offsets begin at the space before it
    made.decoder = tokenizers.decoders.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(**_FAIRSEQ_FRAME)
    return _with_special_tokens(made, [*_FAIRSEQ, "<mask>"])


def byte_tokenizer() -> tokenizers.Tokenizer:
    """A small tokenizer as RoBERTa's: BPE over bytes, most Chinese characters in several tokens."""
    pre = tokenizers.pre_tokenizers
    vocab = [*_FAIRSEQ, *sorted(pre.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in (" hello", " world", "ing", "中", "国", "北", "京", "中国"):
        ((written, _),) = pre.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
        for end in range(2, len(written) + 1):
            if written[:end] not in vocab:
                merges.append((written[: end - 1], written[end - 1]))
                vocab.append(written[:end])
    ids = {token: index for index, token in enumerate([*vocab, "<mask>"])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    made.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return _with_special_tokens(made, [*_FAIRSEQ, "<mask>"])


def modern_tokenizer() -> tokenizers.Tokenizer:
    """A small tokenizer as ModernBERT's: the same over bytes, with [CLS] and [SEP] at the end of the vocabulary."""
    made = byte_tokenizer()
    _with_special_tokens(made, list(_BERT_NAMES.values()))
    made.normalizer = tokenizers.normalizers.NFC()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return made


def _with_special_tokens(tokenizer: tokenizers.Tokenizer, names: list[str]) -> tokenizers.Tokenizer:
    """The last of the names is the mask, which takes the space before it along."""
    added = [tokenizers.AddedToken(name, special=True, normalized=False, lstrip=name == names[-1]) for name in names]
    tokenizer.add_special_tokens(added)
    return tokenizer


# The tokenizers of families that have no vocab.txt, with the class that AutoTokenizer takes for them.
TOKENIZERS: Mapping[str, tuple[Callable[[], tokenizers.Tokenizer], str]] = {
    "xlm-roberta": (unigram_tokenizer, "XLMRobertaTokenizer"),
    "roberta": (byte_tokenizer, "RobertaTokenizer"),
    "modernbert": (modern_tokenizer, "PreTrainedTokenizerFast"),
}
# What the generic class needs to be told.
MODERN_SETTINGS: Mapping[str, Any] = {**_BERT_NAMES, "model_input_names": ["input_ids", "attention_mask"]}


def write_tokenizer(folder: Path, made: tokenizers.Tokenizer, tokenizer_class: str, **settings: Any) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, in place of a `vocab.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").unlink(missing_ok=True)
    made.save(str(folder / "tokenizer.json"))
    told = MODERN_SETTINGS if tokenizer_class == "PreTrainedTokenizerFast" else {}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, **told, **settings})


_COMMON: dict[str, Any] = {
    "vocab_size": len(VOCAB),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_FACTORISED: dict[str, Any] = {"embedding_size": 16}
_ROBERTA: dict[str, Any] = {
    **{"pad_token_id": 1, "max_position_embeddings": 66, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
}
# The middle layer of the three sees 3 tokens to each side. It is narrow: a gate multiplies two numbers that int8
# rounded, and random weights then cost more than trained ones may.
_MODERN: dict[str, Any] = {
    **{"hidden_activation": "gelu", "norm_eps": 1e-5, "local_attention": 6, "global_attn_every_n_layers": 2},
    **{"hidden_size": 24, "intermediate_size": 32},
}
# Four heads of queries share two of keys and values, and Qwen3's are wider than a fourth of the layer. The gate is
# narrow for the same reason as ModernBERT's.
_QWEN: dict[str, Any] = {
    **{"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e4, "num_key_value_heads": 2},
    "intermediate_size": 32,
}
# Two layers are shared, two are the text's, one is the image's, with other heads, width and activation.
_INTERBERT: dict[str, Any] = {
    **{"num_hidden_layers": 2, "t_num_hidden_layers": 2, "v_num_hidden_layers": 1, "v_num_attention_heads": 2},
    **{"v_feature_size": 24, "v_target_size": 11, "v_hidden_size": 32, "v_intermediate_size": 40},
    **{"v_hidden_act": "relu", "bi_hidden_size": 20},
}
# What a family's configuration has beyond that.
_BY_FAMILY: dict[str, dict[str, Any]] = {
    "albert": {**_FACTORISED, "hidden_act": "gelu_new", "num_hidden_groups": 1, "inner_group_num": 1},
    "electra": _FACTORISED,
    "nezha": {"max_relative_position": 6},
    "ernie": {"use_task_id": True, "task_type_vocab_size": 3},
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "roformer": _FACTORISED,
    "modernbert": _MODERN,
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 12},
    "interbert": _INTERBERT,
}


def adapter_entry(config: Mapping[str, Any], name: str = "senti") -> dict[str, Any]:
    """What the `adapters` library writes into `config.json` for one adapter."""
    return {"adapters": {name: "configuration"}, "config_map": {"configuration": dict(config)}, "fusions": {}}


_ENTITIES = {"0": "O", "1": "B-人", "2": "I-人", "3": "B-地", "4": "I-地"}
# Of each task, beside filling masks, that follows from `architectures`; each family has most of them.
HEADS: Mapping[str, Mapping[str, Any]] = {
    "no-head": {"task": "features"},
    "classifier": {"task": "text-classification", "config": {"id2label": {"0": "差", "1": "中", "2": "好"}}},
    "multi-label": {
        "task": "text-classification",
        "config": {"num_labels": 4, "problem_type": "multi_label_classification"},
    },
    "regression": {"task": "text-classification", "config": {"id2label": {"0": "相似度"}}},
    "tagger": {"task": "token-classification", "config": {"id2label": _ENTITIES}, "pooler": False},
    "reader": {"task": "question-answering", "pooler": False},
}

# RoBERTa has one segment; the tokenizer of `vocab.txt` gives two to a question and its context.
_OF_PAIRS = {(family, "reader"): {"config": {"type_vocab_size": 2}} for family in ("roberta", "xlm-roberta")}
_EVERY_BIAS = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)

# What each variant changes: arguments of `write_checkpoint`, with `model_type` and `config` for `small_config`.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "bert": {},
    "bert-no-pooler": {"pooler": False},
    "bert-no-prefix": {"prefix": False},
    "bert-gamma-beta": {"gamma_beta": True},
    "bert-position-ids": {"position_ids": True},
    "bert-fp16": {"dtype": "F16"},
    "bert-bf16": {"dtype": "BF16"},
    "bert-mixed": {"dtype": lambda name: "F32" if "LayerNorm" in name else "BF16"},
    "qwen2-bf16": {"model_type": "qwen2", "dtype": "BF16"},
    "bert-sharded": {"shards": 3},
    "bert-untied": {"config": {"tie_word_embeddings": False}},
    "bert-decoder-copies": {"decoder_copies": True},
    "bert-relu": {"config": {"hidden_act": "relu"}},
    "albert": {"model_type": "albert"},
    "albert-groups": {
        "model_type": "albert",
        "config": {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    },
    "electra-generator": {"model_type": "electra"},
    "electra-generator-same-width": {"model_type": "electra", "config": {"embedding_size": 32}},
    "electra-discriminator": {"model_type": "electra", "task": "replaced-token-detection"},
    "megatron-bert": {"model_type": "megatron-bert"},
    "ernie": {"model_type": "ernie"},
    "ernie-1.0": {"model_type": "ernie", "config": {"use_task_id": False, "hidden_act": "relu"}},
    "nezha": {"model_type": "nezha"},
    "roberta": {"model_type": "roberta"},
    "xlm-roberta": {"model_type": "xlm-roberta", "pooler": False},
    "roformer": {"model_type": "roformer"},
    "roformer-values": {"model_type": "roformer", "config": {"embedding_size": None, "rotary_value": True}},
    "modernbert": {"model_type": "modernbert"},
    "modernbert-biases": {"model_type": "modernbert", "config": _EVERY_BIAS},
    "qwen2": {"model_type": "qwen2"},  # by default, its decoder is not tied
    "qwen3": {"model_type": "qwen3", "config": {"tie_word_embeddings": True}},
    "qwen3-biases": {"model_type": "qwen3", "task": "features", "config": {"attention_bias": True}},
    "interbert": {"model_type": "interbert"},
    "interbert-sum": {"model_type": "interbert", "config": {"fusion_method": "sum"}},
    "modernbert-mean": {
        "model_type": "modernbert",
        "task": "text-classification",
        "config": {"classifier_pooling": "mean", "id2label": {"0": "差", "1": "中", "2": "好"}},
    },
    **{
        f"{family}-{kind}": {"model_type": family, **arguments, **_OF_PAIRS.get((family, kind), {})}
        for family in FAMILIES
        for kind, arguments in HEADS.items()
        if arguments["task"] in ("features", *FAMILIES[family].label_heads)
    },
}

# Bottlenecks as the `adapters` library's configurations of these names have them, but for wider ones.
_SEQ_BN: dict[str, Any] = {
    **{"mh_adapter": False, "output_adapter": True, "original_ln_before": True, "original_ln_after": True},
    **{"reduction_factor": 4, "non_linearity": "relu"},
}
_DOUBLE_SEQ_BN: dict[str, Any] = {
    **{"mh_adapter": True, "output_adapter": True, "original_ln_before": False, "original_ln_after": True},
    **{"reduction_factor": 4, "non_linearity": "swish"},
}
_PAR_BN: dict[str, Any] = {**_DOUBLE_SEQ_BN, "mh_adapter": False, "is_parallel": True, "scaling": 4.0}
_ADAPTER_PLUS: dict[str, Any] = {
    **_SEQ_BN,
    **{"original_ln_after": False, "residual_before_ln": False, "scaling": "channel", "non_linearity": "gelu"},
}
_BOTH: dict[str, Any] = {"mh_adapter": True, "output_adapter": True}
_ADAPTERS: Mapping[str, Mapping[str, Any]] = {
    "seq_bn": _SEQ_BN,
    "double_seq_bn": _DOUBLE_SEQ_BN,
    "par_bn": _PAR_BN,
    "adapter_plus": _ADAPTER_PLUS,
    "norms": {**_DOUBLE_SEQ_BN, "ln_before": True, "ln_after": True},
    "norm_of_residual": {**_SEQ_BN, **_BOTH, "ln_after": True, "adapter_residual_before_ln": True},
    "post_add": {**_SEQ_BN, **_BOTH, "residual_before_ln": "post_add", "scaling": "learned"},
    "by_layer": {**_DOUBLE_SEQ_BN, "leave_out": [1], "reduction_factor": {"0": 2, "default": 0.5}},
    "both_parallel": {**_PAR_BN, **_BOTH, "ln_after": True, "non_linearity": "tanh", "original_ln_before": True},
}


def _adapted(base: str, adapter: Mapping[str, Any]) -> dict[str, Any]:
    return {**VARIANTS[base], "config": {**VARIANTS[base].get("config", {}), "adapters": adapter_entry(adapter)}}


# Kept apart from VARIANTS, since transformers' own classes do not know them.
ADAPTER_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"{base}-{kind}": _adapted(base, _ADAPTERS[kind])
    for bases, kinds in {
        ("bert", "albert-groups", "electra-generator"): tuple(_ADAPTERS),
        ("bert-classifier", "albert-tagger", "electra-discriminator", "electra-reader"): ("double_seq_bn",),
    }.items()
    for base in bases
    for kind in kinds
}


# Kept apart from VARIANTS too: graphs are the same whatever the tokenizer.
TOKENIZER_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"{family}-own-{kind}": {
        **{"model_type": family, "pooler": False, "own_tokenizer": True, **HEADS.get(kind, {})},
        "config": {"vocab_size": make().get_vocab_size(), **HEADS.get(kind, {}).get("config", {})},
    }
    for family, (make, _) in TOKENIZERS.items()
    for kind in ("fill-mask", "no-head", "classifier", "tagger", "reader")
}


def small_config(model_type: str = "bert", **changes: Any) -> dict[str, Any]:
    """A `config.json` of 3 layers, 32 wide, over `VOCAB`."""
    return {"model_type": model_type, **_COMMON, **_BY_FAMILY.get(model_type, {}), **changes}


def write_variant(folder: Path, name: str, **changes: Any) -> Path:
    """Write one of VARIANTS, ADAPTER_VARIANTS, SENTENCE_VARIANTS or TOKENIZER_VARIANTS.

    `changes` override its arguments of `write_checkpoint`.
    """
    variants = {**VARIANTS, **ADAPTER_VARIANTS, **SENTENCE_VARIANTS, **TOKENIZER_VARIANTS}
    arguments = {**variants[name], **changes}
    config = small_config(arguments.pop("model_type", "bert"), **arguments.pop("config", {}))
    return write_checkpoint(folder, config, **arguments)


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    *,
    task: str | None = None,
    pooler: bool = True,
    prefix: bool = True,
    gamma_beta: bool = False,
    position_ids: bool = False,
    decoder_copies: bool = False,
    dtype: Dtype = "F32",
    shards: int = 1,
    seed: int = 0,
    vocab: list[str] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    own_tokenizer: bool = False,
    alter: Callable[[Tensors], object] | None = None,
    token_heads: bool = False,
    sentence: Mapping[str, Any] | None = None,
) -> Path:
    """Write `config.json`, `vocab.txt` and random weights, and return the folder.

    task: the head, as in EncoderSpec.task; by default the family's over the vocabulary.
    pooler: has no effect where the family has none.
    prefix: False drops `bert.` from the encoder's names. gamma_beta: LayerNorm's old names.
    decoder_copies: also store the tied decoder and the decoder bias's second name.
    dtype: F32, F16 or BF16, for every floating tensor, or by its name. shards: files, with an index if more than one.
    own_tokenizer: write the family's of TOKENIZERS, and no `vocab.txt`.
    alter: changes the tensors, by stored name, just before they are written.
    token_heads: BGE-M3's two. sentence: arguments of `write_modules`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = FAMILIES[config["model_type"]]
    task = task or family.lm_task
    config = {"architectures": [family.class_name + CLASS_SUFFIXES[task]], **config}
    parsed = EncoderConfig.from_dict(config)
    spec = make_spec(parsed, task, pooler, token_heads)
    tensors = {parameter.name: random_tensor(parameter, seed) for parameter in spec.parameters()}
    if decoder_copies:
        names = family.masked_lm_names
        tensors[f"{names.untied_decoder}.weight"] = tensors[spec.word_embeddings.weight]
        if names.decoder_bias_alias:
            tensors[names.decoder_bias_alias] = tensors[spec.head.decoder_bias]
    if gamma_beta:
        norms = {p.name: p.kind for p in spec.parameters() if p.kind.startswith("norm_")}
        tensors = {_old_norm_name(name) if name in norms else name: array for name, array in tensors.items()}
    if position_ids:
        tensors[f"{family.prefix}.embeddings.position_ids"] = np.arange(parsed.max_position_embeddings)[None]
    if not prefix:
        tensors = {name.removeprefix(f"{family.prefix}."): array for name, array in tensors.items()}
    if alter:
        alter(tensors)
    write_weights(folder, tensors, dtype, shards)
    write_json(folder / "config.json", config)
    if own_tokenizer:
        make, tokenizer_class = TOKENIZERS[parsed.model_type]
        write_tokenizer(folder, make(), tokenizer_class, **(tokenizer_config or {}))
        return folder
    vocab = vocab_of(parsed) if vocab is None else vocab
    (folder / "vocab.txt").write_bytes(("\n".join(vocab) + "\n").encode())
    if tokenizer_config is not None:
        write_json(folder / "tokenizer_config.json", tokenizer_config)
    return write_modules(folder, **sentence) if sentence else folder


def vocab_of(config: EncoderConfig) -> list[str]:
    """VOCAB, with [PAD] where this configuration has it."""
    others, pad = VOCAB[1:], config.pad_token_id
    return [*others[:pad], VOCAB[0], *others[pad:]]


def open_tokenizer(vocab: list[str], max_length: int, **settings: Any) -> Tokenizer:
    """The tokenizer of a vocabulary, with these settings of `tokenizer_config.json`."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_bytes("".join(f"{entry}\n" for entry in vocab).encode())
        write_json(Path(folder) / "tokenizer_config.json", settings)
        return Tokenizer(read_tokenizer(Path(folder)), max_length)


def make_spec(
    config: EncoderConfig, task: str | None = None, pooler: bool = True, token_heads: bool = False
) -> EncoderSpec:
    """The spec of a checkpoint with this head."""
    family = FAMILIES[config.model_type]
    task = task or family.lm_task
    names = {f"{family.pooler}.weight"} if pooler and family.pooler else set()
    names |= {f"{SPARSE}.weight", f"{MULTI_VECTOR}.weight"} if token_heads else set()
    if task == "fill-mask":
        names.add(family.masked_lm(config).dense.weight)
    elif task == "replaced-token-detection":
        names.add(family.replaced_token(config).projection.weight)
    elif task in family.label_heads:
        names.add(f"{family.label_heads[task].projection}.weight")
    spec = build_spec(replace(config, architecture=family.class_name + CLASS_SUFFIXES[task]), names)
    if spec.task != task:
        raise ValueError(f"{config.model_type} has no {task} head")
    return spec


def random_tensor(parameter: Parameter, seed: int = 0) -> NDArray[np.float32]:
    """Random float32 values, the same for the same name and seed whatever else a checkpoint holds."""
    rng = np.random.default_rng([seed, zlib.crc32(parameter.name.encode())])
    spread = {KERNEL: parameter.shape[-1] ** -0.5, EMBEDDING: 0.5}.get(parameter.kind, 0.2)
    middle = {KERNEL: 0.01, EMBEDDING: 0.05, NORM_SCALE: 1.1}.get(parameter.kind, 0.1)
    return rng.normal(middle, spread, parameter.shape).astype(np.float32)


def expected_tensors(variant: str) -> dict[str, np.ndarray]:
    """The tensors of one of VARIANTS under their canonical names."""
    arguments = VARIANTS[variant]
    config = EncoderConfig.from_dict(small_config(arguments.get("model_type", "bert"), **arguments.get("config", {})))
    spec = make_spec(config, arguments.get("task"), arguments.get("pooler", True))
    return {parameter.name: random_tensor(parameter) for parameter in spec.parameters()}


def write_weights(folder: Path, tensors: Tensors, dtype: Dtype = "F32", shards: int = 1) -> None:
    """Write tensors to `model.safetensors`, or to so many shards and their index."""
    if shards == 1:
        write_tensors(folder / WEIGHTS, tensors, dtype)
        return
    weight_map = {}
    for index in range(shards):
        file_name = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[index::shards])
        write_tensors(folder / file_name, part, dtype)
        weight_map |= dict.fromkeys(part, file_name)
    write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})


def write_tensors(path: Path, tensors: Tensors, dtype: Dtype = "F32") -> None:
    """Write one safetensors file; float32 arrays are stored as `dtype`, others as they are."""
    dtypes = {name: dtype if isinstance(dtype, str) else dtype(name) for name in tensors}
    stored = {name: encode(array, dtypes[name]) for name, array in tensors.items()}
    with open(path, "wb") as file:
        write_safetensors(
            file,
            {name: (kind, array.shape) for name, (kind, array) in stored.items()},
            (array.tobytes() for _, array in stored.values()),
        )


def encode(array: NDArray, dtype: str) -> tuple[str, NDArray]:
    """The safetensors dtype and the array to store. BF16 keeps a float32's upper 16 bits, rounded down."""
    if array.dtype != np.float32 or dtype == "F32":
        return SAFETENSORS_TYPES[array.dtype], array
    if dtype == "BF16":
        return "BF16", (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
    return dtype, array.astype(np.float16)


def write_json(path: Path, value: object) -> None:
    """Write JSON as UTF-8."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def _old_norm_name(name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    return f"{module}.{ {'weight': 'gamma', 'bias': 'beta'}[leaf] }"
