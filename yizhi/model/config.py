"""EncoderConfig: what `config.json` says about an encoder, checked, and nothing else."""

import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from yizhi.errors import InputError, show
from yizhi.model.adapter_config import AdapterConfig, read_adapters
from yizhi.storage.json_files import read_json_object

# hidden_act -> the function it names. "gelu" is the exact erf form; the tanh form has three names.
ACTIVATIONS = MappingProxyType(
    {
        "gelu": "gelu_erf",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "relu": "relu",
    }
)


@dataclass(frozen=True)
class _Fields:
    """Which optional fields a family has, with what transformers assumes where a published file is silent.

    embedding_size: the default of a family whose embeddings may be narrower than its layers; None
    where they are as wide. shares_layers: has num_hidden_groups and inner_group_num.
    """

    hidden_act: str = "gelu"
    embedding_size: int | None = None
    shares_layers: bool = False


_FIELDS = {
    "bert": _Fields(),
    "albert": _Fields(hidden_act="gelu_new", embedding_size=128, shares_layers=True),
    "electra": _Fields(embedding_size=128),
    "megatron-bert": _Fields(),
}
MODEL_TYPES = tuple(_FIELDS)

_NOT_ENCODERS = {
    "roberta": "RoBERTa-wwm-ext and its relatives are BERT models: their config says model_type 'bert'. "
    "A real RoBERTa (positions offset by padding, BPE vocabulary) is not supported",
    "xlm-roberta": "XLM-R (offset positions, SentencePiece) is not supported",
    "nezha": "NEZHA uses relative positions, which are not supported",
    "ernie": "ERNIE adds task-type embeddings, which are not supported",
}

# Each size that a config must give, with the most that is believed: far above any encoder published, and
# low enough that a lying file cannot make the list of expected tensors fill the memory.
_SIZES = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 16,
    "num_hidden_layers": 1 << 9,
    "num_attention_heads": 1 << 16,
    "intermediate_size": 1 << 18,
    "max_position_embeddings": 1 << 20,
    "type_vocab_size": 1 << 16,
}

_UNSUPPORTED = {
    "is_decoder": "a decoder is not an encoder",
    "add_cross_attention": "cross-attention is not supported",
    "is_encoder_decoder": "an encoder-decoder is not supported",
    "pruned_heads": "pruned attention heads are not supported",
    "quantization_config": "an already quantized checkpoint is not supported",
}


@dataclass(frozen=True)
class EncoderConfig:
    """Hyper-parameters of a BERT-family encoder, under their Hugging Face names.

    `raw` is the whole file as read, kept so that artifacts can carry it on.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str
    layer_norm_eps: float
    embedding_size: int
    num_hidden_groups: int
    inner_group_num: int
    pad_token_id: int
    tie_word_embeddings: bool
    architecture: str | None
    adapter: AdapterConfig | None
    colbert_dim: int
    raw: MappingProxyType[str, Any]

    @property
    def activation(self) -> str:
        """`gelu_erf`, `gelu_tanh` or `relu`: one name per function."""
        return ACTIVATIONS[self.hidden_act]

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def read(cls, path: Path) -> "EncoderConfig":
        """Read and check a `config.json`. Raises InputError listing every fault."""
        return cls.from_dict(read_json_object(path), path)

    @classmethod
    def from_dict(cls, raw: dict[str, Any], source: object = "config") -> "EncoderConfig":
        """Check a parsed `config.json`. Raises InputError listing every fault."""
        model_type = raw.get("model_type")
        if model_type not in MODEL_TYPES:
            raise InputError(source, _explain_model_type(raw, model_type))

        faults = _find_unsupported(raw)
        values = _read_sizes(raw, model_type, faults)
        hidden_act = raw.get("hidden_act", _FIELDS[model_type].hidden_act)
        if not isinstance(hidden_act, str) or hidden_act not in ACTIVATIONS:
            faults.append(f"hidden_act: expected one of {', '.join(ACTIVATIONS)}; found {show(hidden_act)}")
        # Google's released code fixes 1e-12, and so do transformers' configuration classes.
        eps = raw.get("layer_norm_eps", 1e-12)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
            faults.append(f"layer_norm_eps: expected a number between 0 and 1; found {show(eps)}")
        pad = raw.get("pad_token_id", 0)
        pad = 0 if pad is None else pad
        if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad < (values["vocab_size"] or math.inf):
            faults.append(f"pad_token_id: expected an id below vocab_size; found {show(pad)}")
        tie = raw.get("tie_word_embeddings", True)
        if not isinstance(tie, bool):
            faults.append(f"tie_word_embeddings: expected true or false; found {show(tie)}")
        architectures = raw.get("architectures")
        if architectures is not None and not (
            isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
        ):
            faults.append(f"architectures: expected a list of class names; found {show(architectures)}")
            architectures = None
        faults += _find_contradictions(values)
        adapter = read_adapters(raw, model_type, faults)
        if faults:
            raise InputError(source, faults)
        return cls(
            model_type=model_type,
            hidden_act=hidden_act,
            layer_norm_eps=float(eps),
            pad_token_id=pad,
            tie_word_embeddings=tie,
            architecture=architectures[0] if architectures else None,
            adapter=adapter,
            raw=MappingProxyType(dict(raw)),
            **{name: size for name, size in values.items() if size is not None},
        )


def _read_sizes(raw: dict[str, Any], model_type: str, faults: list[str]) -> dict[str, int | None]:
    """Every size by its field's name; None where a fault was noted."""
    values = {key: _positive_integer(raw, key, None, most, faults) for key, most in _SIZES.items()}
    optional = _FIELDS[model_type]
    values["embedding_size"] = values["hidden_size"]
    if optional.embedding_size:  # elsewhere the field is stray, as transformers takes it; shapes will tell if not
        most = _SIZES["hidden_size"]
        values["embedding_size"] = _positive_integer(raw, "embedding_size", optional.embedding_size, most, faults)
    # FlagEmbedding's name for the width of `token_vectors`; `config.json` of BGE-M3 is silent, and −1 means as wide.
    width = raw.get("colbert_dim", -1)
    values["colbert_dim"] = values["hidden_size"]
    if width != -1:
        values["colbert_dim"] = _positive_integer(raw, "colbert_dim", None, _SIZES["hidden_size"], faults)
    for key in ("num_hidden_groups", "inner_group_num"):
        most = _SIZES["num_hidden_layers"]
        values[key] = _positive_integer(raw, key, 1, most, faults) if optional.shares_layers else 1
    return values


def _positive_integer(raw: dict[str, Any], key: str, default: int | None, most: int, faults: list[str]) -> int | None:
    value = raw.get(key, default)
    if value is None:
        faults.append(f"{key}: missing")
    elif isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        faults.append(f"{key}: expected an integer from 1 to {most}; found {show(value)}")
    else:
        return value
    return None


def _find_unsupported(raw: dict[str, Any]) -> list[str]:
    faults = [f"{key}: {why}; found {show(raw[key])}" for key, why in _UNSUPPORTED.items() if raw.get(key)]
    position_type = raw.get("position_embedding_type", "absolute")
    if position_type not in ("absolute", None):
        faults.append(f"position_embedding_type: expected 'absolute'; found {show(position_type)}")
    return faults


def _find_contradictions(values: dict[str, int | None]) -> list[str]:
    faults = []
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if hidden and heads and hidden % heads:
        faults.append(f"hidden_size: expected a multiple of num_attention_heads ({heads}); found {hidden}")
    layers, groups = values["num_hidden_layers"], values["num_hidden_groups"]
    if layers and groups and groups > layers:
        faults.append(f"num_hidden_groups: expected at most num_hidden_layers ({layers}); found {groups}")
    inner = values["inner_group_num"]
    if layers and inner and layers * inner > _SIZES["num_hidden_layers"]:
        most = _SIZES["num_hidden_layers"] // layers
        faults.append(f"inner_group_num: expected at most {most} for {layers} layers; found {inner}")
    return faults


def _explain_model_type(raw: dict[str, Any], model_type: object) -> str:
    if isinstance(model_type, str) and model_type in _NOT_ENCODERS:
        return f"model_type: found {model_type!r}. {_NOT_ENCODERS[model_type]}"
    expected = f"expected one of {', '.join(MODEL_TYPES)}"
    if model_type is None and {"layers_num", "heads_num"} & raw.keys():
        return f"model_type: missing; {expected}. This is a UER-py config: use `yizhi import`"
    if model_type is None and {"num_hidden_layers", "hidden_size"} <= raw.keys():
        return f"model_type: missing; {expected}. A Google bert_config.json is read by `yizhi import`"
    return f"model_type: {expected}; found {show(model_type)}"
