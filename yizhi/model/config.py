"""EncoderConfig: what `config.json` says about an encoder, checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from yizhi.errors import InputError, show
from yizhi.model.adapter_config import AdapterConfig, read_adapters
from yizhi.model.image_config import ImageConfig, read_image
from yizhi.model.layer_config import ACTIVATIONS, LayerConfig, read_layers
from yizhi.storage.json_files import read_json_object


@dataclass(frozen=True)
class _Fields:
    """The optional fields of a family, with the values that transformers assumes if a published file omits them.

    narrow: its embeddings may be narrower than its layers. The value is embedding_size's default; None for hidden_size.
    shares_layers: has num_hidden_groups and inner_group_num.
    skips_padding: counts positions from the padding's id on, over tokens that are not padding.
    has_tasks: has task types, if `use_task_id` says so.
    token_types: False if no parameter reads them. Their ids are then checked as BERT's are, so that one caller serves
    all.
    names: of fields with other names.
    key_value_heads, head_size: the defaults of `num_key_value_heads` and `head_dim`, if the family has these fields.
    head_size may be None, for a part of the hidden size. tied: whether the decoder is the embedding table.
    """

    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    narrow: bool = False
    embedding_size: int | None = None
    shares_layers: bool = False
    skips_padding: bool = False
    has_tasks: bool = False
    pad_token_id: int = 0
    token_types: bool = True
    names: Mapping[str, str] = field(default_factory=dict)
    key_value_heads: int | None = None
    head_size: int | None = None
    tied: bool = True


_QWEN = _Fields(
    hidden_act="silu",
    layer_norm_eps=1e-6,
    pad_token_id=151_643,  # <|endoftext|>, which their tokenizers pad with
    token_types=False,
    names={"layer_norm_eps": "rms_norm_eps"},
    key_value_heads=32,
    tied=False,
)
_FIELDS = {
    "bert": _Fields(),
    "albert": _Fields(hidden_act="gelu_new", narrow=True, embedding_size=128, shares_layers=True),
    "electra": _Fields(narrow=True, embedding_size=128),
    "megatron-bert": _Fields(),
    "roberta": _Fields(skips_padding=True, pad_token_id=1),
    "xlm-roberta": _Fields(skips_padding=True, pad_token_id=1),
    "ernie": _Fields(has_tasks=True),
    "nezha": _Fields(),
    "roformer": _Fields(narrow=True),
    "modernbert": _Fields(
        pad_token_id=50_283,
        layer_norm_eps=1e-5,
        token_types=False,
        names={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
    ),
    "qwen2": _QWEN,
    "qwen3": replace(_QWEN, head_size=128),
    "interbert": _Fields(),
}
MODEL_TYPES = tuple(_FIELDS)
# `model_type` of 360Zhinao, which `yizhi import` writes as Qwen2.
ZHINAO = "zhinao"

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

# The tokens of a row that says anything: one between [CLS] and [SEP].
_SHORTEST = 3

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

    head_size: width of one attention head, `head_dim` if the family has that field.
    num_hidden_layers: with an image stream, those that tokens and regions share.
    `raw` is the whole parsed file. Artifacts carry it on.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    task_type_vocab_size: int | None
    hidden_act: str
    layer_norm_eps: float
    embedding_size: int
    num_hidden_groups: int
    inner_group_num: int
    pad_token_id: int
    tie_word_embeddings: bool
    architecture: str | None
    adapter: AdapterConfig | None
    layers: LayerConfig
    image: ImageConfig | None
    colbert_dim: int
    raw: MappingProxyType[str, Any]

    @property
    def activation(self) -> str:
        """`gelu_erf`, `gelu_tanh`, `relu` or `silu`: one name per function."""
        return ACTIVATIONS[self.hidden_act]

    @property
    def padding_idx(self) -> int | None:
        """Padding's row of the position table, if positions are counted from there; see EncoderSpec."""
        return self.pad_token_id if _FIELDS[self.model_type].skips_padding else None

    @property
    def depth(self) -> int:
        """How many blocks a text goes through."""
        return self.num_hidden_layers + (self.image.text_layers if self.image else 0)

    def of_image(self, image: ImageConfig) -> "EncoderConfig":
        """The same for the layers that are the image's own."""
        return replace(
            self,
            num_hidden_layers=image.layers,
            num_attention_heads=image.heads,
            num_key_value_heads=image.heads,
            head_size=self.hidden_size // image.heads,
            intermediate_size=image.intermediate_size,
            hidden_act=image.hidden_act,
            image=None,
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest row. RoBERTa's 514 positions hold 512: two come before the first token."""
        return self.max_position_embeddings - (0 if self.padding_idx is None else self.padding_idx + 1)

    @property
    def head_activation(self) -> str:
        """The activation of a head's dense layer, unless its family fixes another."""
        return self.layers.classifier_activation or self.activation

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
        optional = _FIELDS[model_type]
        act, epsilon = (name_in_file(model_type, key) for key in ("hidden_act", "layer_norm_eps"))
        hidden_act = raw.get(act, optional.hidden_act)
        if not isinstance(hidden_act, str) or hidden_act not in ACTIVATIONS:
            faults.append(f"{act}: expected one of {', '.join(ACTIVATIONS)}; found {show(hidden_act)}")
        # Google's released code fixes 1e-12 for BERT, and so do transformers' configuration classes.
        eps = raw.get(epsilon, optional.layer_norm_eps)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
            faults.append(f"{epsilon}: expected a number between 0 and 1; found {show(eps)}")
        pad = raw.get("pad_token_id")
        pad = _default_pad(optional, values["vocab_size"]) if pad is None else pad
        if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad < (values["vocab_size"] or math.inf):
            faults.append(f"pad_token_id: expected an id below vocab_size; found {show(pad)}")
        else:
            least = _SHORTEST + (pad + 1 if optional.skips_padding else 0)
            if (found := values["max_position_embeddings"]) and found < least:
                faults.append(
                    f"max_position_embeddings: expected {least} or more, for a row of one word; found {found}"
                )
        tie = raw.get("tie_word_embeddings", optional.tied)
        if not isinstance(tie, bool):
            faults.append(f"tie_word_embeddings: expected true or false; found {show(tie)}")
        architectures = raw.get("architectures")
        if architectures is not None and not (
            isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
        ):
            faults.append(f"architectures: expected a list of class names; found {show(architectures)}")
            architectures = None
        values["task_type_vocab_size"] = _read_tasks(raw, model_type, faults)
        faults += _find_contradictions(values)
        faults += _find_odd_heads(values, model_type)
        adapter, layers = read_adapters(raw, model_type, faults), read_layers(raw, model_type, faults)
        image = read_image(raw, model_type, faults)
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
            layers=layers,
            image=image,
            raw=MappingProxyType(dict(raw)),
            **values,  # type: ignore[arg-type]  # without a fault, each is a size
        )


def name_in_file(model_type: str, key: str) -> str:
    """What a family's `config.json` calls a field: `rms_norm_eps` for `layer_norm_eps` in Qwen's."""
    return _FIELDS[model_type].names.get(key, key)


def _default_pad(optional: _Fields, vocab_size: int | None) -> int:
    """Padding's id where the file is silent: its family's. 0 where the vocabulary is too short for that id.

    `Checkpoint` takes the tokenizer's, but where positions are counted from padding.
    """
    is_there = optional.pad_token_id < (vocab_size or math.inf)
    return optional.pad_token_id if is_there or optional.skips_padding else 0


def _read_sizes(raw: dict[str, Any], model_type: str, faults: list[str]) -> dict[str, int | None]:
    """Every size by its field's name; None where a fault was noted."""
    optional = _FIELDS[model_type]
    raw = raw if optional.token_types else {**raw, "type_vocab_size": 2}
    values = {key: _positive_integer(raw, key, None, most, faults) for key, most in _SIZES.items()}
    values["embedding_size"] = values["hidden_size"]
    default = optional.embedding_size or values["hidden_size"]
    if optional.narrow and default:  # elsewhere the field is stray, as transformers takes it; shapes will tell if not
        # RoFormer's may be null.
        given = raw if optional.embedding_size or raw.get("embedding_size") is not None else {}
        most = _SIZES["hidden_size"]
        values["embedding_size"] = _positive_integer(given, "embedding_size", default, most, faults)
    # FlagEmbedding's name for the width of `token_vectors`; `config.json` of BGE-M3 is silent, and −1 means as wide.
    width = raw.get("colbert_dim", -1)
    values["colbert_dim"] = values["hidden_size"]
    if width != -1:
        values["colbert_dim"] = _positive_integer(raw, "colbert_dim", None, _SIZES["hidden_size"], faults)
    heads = values["num_attention_heads"]
    values["num_key_value_heads"] = heads
    if optional.key_value_heads and raw.get("num_key_value_heads", 0) is not None:  # null is one for each query's
        most = _SIZES["num_attention_heads"]
        values["num_key_value_heads"] = _positive_integer(
            raw, "num_key_value_heads", optional.key_value_heads, most, faults
        )
    hidden = values["hidden_size"]
    values["head_size"] = hidden // heads if hidden and heads else None
    if optional.key_value_heads and (optional.head_size or raw.get("head_dim") is not None):
        values["head_size"] = _positive_integer(raw, "head_dim", optional.head_size, _SIZES["hidden_size"], faults)
    for key in ("num_hidden_groups", "inner_group_num"):
        most = _SIZES["num_hidden_layers"]
        values[key] = _positive_integer(raw, key, 1, most, faults) if optional.shares_layers else 1
    return values


def _read_tasks(raw: dict[str, Any], model_type: str, faults: list[str]) -> int | None:
    """`task_type_vocab_size`, where the encoder has task types."""
    uses_tasks = raw.get("use_task_id", False) if _FIELDS[model_type].has_tasks else False
    if not isinstance(uses_tasks, bool):
        faults.append(f"use_task_id: expected true or false; found {show(uses_tasks)}")
    elif uses_tasks:
        return _positive_integer(raw, "task_type_vocab_size", 3, _SIZES["type_vocab_size"], faults)
    return None


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
    if hidden and heads and values["head_size"] == hidden // heads and hidden % heads:
        faults.append(f"hidden_size: expected a multiple of num_attention_heads ({heads}); found {hidden}")
    shared = values["num_key_value_heads"]
    if heads and shared and heads % shared:
        faults.append(f"num_attention_heads: expected a multiple of num_key_value_heads ({shared}); found {heads}")
    layers, groups = values["num_hidden_layers"], values["num_hidden_groups"]
    if layers and groups and groups > layers:
        faults.append(f"num_hidden_groups: expected at most num_hidden_layers ({layers}); found {groups}")
    inner = values["inner_group_num"]
    if layers and inner and layers * inner > _SIZES["num_hidden_layers"]:
        most = _SIZES["num_hidden_layers"] // layers
        faults.append(f"inner_group_num: expected at most {most} for {layers} layers; found {inner}")
    return faults


def _find_odd_heads(values: dict[str, int | None], model_type: str) -> list[str]:
    """Rotary positions turn pairs, and NEZHA's are a sine and a cosine of each."""
    heads, size = values["num_attention_heads"], values["head_size"]
    if model_type not in ("roformer", "modernbert", "nezha", "qwen2", "qwen3") or not size or not size % 2:
        return []
    field = "head_dim" if _FIELDS[model_type].head_size else "hidden_size"
    return [f"{field}: expected an even number for each of {heads} heads; found {size}"]


def _explain_model_type(raw: dict[str, Any], model_type: object) -> str:
    expected = f"expected one of {', '.join(MODEL_TYPES)}"
    if model_type is None and {"layers_num", "heads_num"} & raw.keys():
        return f"model_type: missing; {expected}. This is a UER-py config: use `yizhi import`"
    if model_type is None and {"t_num_hidden_layers", "v_feature_size"} <= raw.keys():
        return f"model_type: missing; {expected}. This is an InterBERT config: use `yizhi import`"
    if model_type is None and {"num_hidden_layers", "hidden_size"} <= raw.keys():
        return f"model_type: missing; {expected}. A Google bert_config.json is read by `yizhi import`"
    if model_type == ZHINAO:
        return "model_type: is 360Zhinao's: `yizhi import` writes it as Qwen2, and the other commands take its result"
    return f"model_type: {expected}; found {show(model_type)}"
