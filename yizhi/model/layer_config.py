"""LayerConfig: the fields of `config.json` for layers and heads, beyond their sizes, that a family leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from yizhi.errors import show

# RoFormer's rotary base, which no file says (Su et al. 2021, arXiv:2104.09864).
ROFORMER_BASE = 10_000.0

# hidden_act -> the function it names. "gelu" is the exact erf form; the tanh form has three names.
ACTIVATIONS = MappingProxyType(
    {
        "gelu": "gelu_erf",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "relu": "relu",
        "silu": "silu",
    }
)
# `classifier_pooling` -> what a label head reads (see `yizhi.model.spec.LinearHead`).
_POOLINGS = {"cls": "first_token", "mean": "mean"}
_MOST = 1 << 20
# Of rotary bases. Below 1, angles grow from pair to pair of a head, and with them what float32 makes of them.
_MOST_BASE = 10**12
_FARTHEST = 1 << 12


@dataclass(frozen=True)
class LayerConfig:
    """Fields under the names of Hugging Face. The defaults are BERT's.

    Layers 0, n, 2n, … for n = `global_attn_every_n_layers` see every token and turn by `global_rope_theta`. The other
    layers see `local_attention` // 2 tokens to each side and turn by `local_rope_theta`.
    global_rope_theta: None without rotary positions. rotary_value: values turn, too.
    classifier_activation: of the heads' dense layer, by its function's name; None follows `hidden_act`.
    classifier_reads: what a sequence's head reads, if the configuration says it.
    attention_output_bias: None follows `attention_bias`.
    max_relative_position: the largest distance that attention distinguishes; None without relative positions.
    """

    attention_bias: bool = True
    attention_output_bias: bool | None = None
    mlp_bias: bool = True
    norm_bias: bool = True
    classifier_bias: bool = True
    decoder_bias: bool = True
    rotary_value: bool = False
    global_rope_theta: float | None = None
    local_rope_theta: float | None = None
    global_attn_every_n_layers: int = 1
    local_attention: int | None = None
    classifier_activation: str | None = None
    classifier_reads: str | None = None
    max_relative_position: int | None = None

    def rope_theta(self, number: int) -> float | None:
        """The rotary base of a layer, by its number."""
        return self.local_rope_theta if self._is_local(number) else self.global_rope_theta

    def window(self, number: int) -> int | None:
        """How far a layer sees to each side, by its number; None for everywhere."""
        return self.local_attention // 2 if self.local_attention and self._is_local(number) else None

    def _is_local(self, number: int) -> bool:
        return number % self.global_attn_every_n_layers != 0


def read_layers(raw: Mapping[str, Any], model_type: str, faults: list[str]) -> LayerConfig:
    """The LayerConfig of a parsed `config.json`, with the defaults of transformers. Adds faults to the list."""
    if model_type == "roformer":
        return LayerConfig(
            global_rope_theta=ROFORMER_BASE, rotary_value=_truth(raw, "rotary_value", default=False, faults=faults)
        )
    if model_type == "nezha":
        farthest = int(_positive(raw, "max_relative_position", 64, faults, whole=True))
        if farthest > _FARTHEST:
            faults.append(f"max_relative_position: expected at most {_FARTHEST}; found {farthest}")
        return LayerConfig(max_relative_position=farthest)
    if model_type in ("qwen2", "qwen3"):
        return _read_qwen(raw, model_type, faults)
    if model_type != "modernbert":
        return LayerConfig()
    faults += [
        f"{key}: expected none, and the fields of transformers 4 (global_rope_theta, …) in its place; "
        f"found {show(raw[key])}"
        for key in ("rope_scaling", "rope_parameters", "layer_types")
        if raw.get(key)
    ]
    base = _positive(raw, "global_rope_theta", 160_000.0, faults)
    local_base = base if raw.get("local_rope_theta", 0) is None else _positive(raw, "local_rope_theta", 1e4, faults)
    activation, pooling = raw.get("classifier_activation", "gelu"), raw.get("classifier_pooling", "cls")
    for key, value, known in (
        ("classifier_activation", activation, ACTIVATIONS),
        ("classifier_pooling", pooling, _POOLINGS),
    ):
        if not isinstance(value, str) or value not in known:
            faults.append(f"{key}: expected one of {', '.join(known)}; found {show(value)}")
    off = {key: _truth(raw, key, default=False, faults=faults) for key in ("attention_bias", "mlp_bias", "norm_bias")}
    return LayerConfig(
        **off,
        classifier_bias=_truth(raw, "classifier_bias", default=False, faults=faults),
        decoder_bias=_truth(raw, "decoder_bias", default=True, faults=faults),
        global_rope_theta=base,
        local_rope_theta=local_base,
        global_attn_every_n_layers=int(_positive(raw, "global_attn_every_n_layers", 3, faults, whole=True)),
        local_attention=int(_positive(raw, "local_attention", 128, faults, whole=True)),
        classifier_activation=ACTIVATIONS.get(activation) if isinstance(activation, str) else None,
        classifier_reads=_POOLINGS.get(pooling) if isinstance(pooling, str) else None,
    )


def _read_qwen(raw: Mapping[str, Any], model_type: str, faults: list[str]) -> LayerConfig:
    """Of Qwen2 and Qwen3. transformers 4 writes `rope_theta` and `rope_scaling`, 5 writes `rope_parameters`."""
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        faults.append(f"rope_parameters: expected an object; found {show(rope)}")
        rope = {}
    for key, found in (("rope_scaling", raw.get("rope_scaling")), ("rope_parameters", rope)):
        # With both names, version 4 reads `type`, version 5 `rope_type`.
        kinds = [found.get(name) for name in ("rope_type", "type") if name in found] if isinstance(found, dict) else []
        if found and (not kinds or any(kind != "default" for kind in kinds)):
            faults.append(f"{key}: expected none, or rope_type 'default'; found {show(found)}")
    scaling = raw.get("rope_scaling")
    base = {**raw, **rope}.get("rope_theta", 10_000.0)
    if raw.get("rope_theta", base) != base:  # which version 4 reads
        faults.append(f"rope_theta: expected {show(base)}, as in rope_parameters; found {show(raw['rope_theta'])}")
    if isinstance(scaling, dict) and scaling.get("rope_theta", base) != base:  # which only version 5 reads
        faults.append(
            f"rope_scaling: rope_theta: expected {show(base)}, as elsewhere; found {show(scaling['rope_theta'])}"
        )
    # gte-Qwen2's. Version 4 reads it in the folder's own code alone, version 5 for every model.
    if not _truth(raw, "is_causal", default=True, faults=faults):
        faults.append("is_causal: expected true: attention to later tokens is not supported; found false")
    if _truth(raw, "use_sliding_window", default=False, faults=faults):
        faults.append("use_sliding_window: expected false: a sliding window is not supported; found true")
    types, count = raw.get("layer_types"), raw.get("num_hidden_layers")
    if types is not None and (not isinstance(types, list) or any(kind != "full_attention" for kind in types)):
        faults.append(f"layer_types: expected 'full_attention' for every layer; found {show(types)}")
    elif types is not None and len(types) != count:
        faults.append(f"layer_types: expected as many as num_hidden_layers, {show(count)}; found {len(types)}")
    # Qwen2's biases are in no configuration.
    bias = model_type == "qwen2" or _truth(raw, "attention_bias", default=False, faults=faults)
    return LayerConfig(
        attention_bias=bias,
        attention_output_bias=bias and model_type != "qwen2",
        mlp_bias=False,
        norm_bias=False,
        global_rope_theta=_positive({**raw, **rope}, "rope_theta", 10_000.0, faults),
    )


def _truth(raw: Mapping[str, Any], key: str, *, default: bool, faults: list[str]) -> bool:
    value = raw.get(key, default)
    if not isinstance(value, bool):
        faults.append(f"{key}: expected true or false; found {show(value)}")
        return default
    return value


def _positive(raw: Mapping[str, Any], key: str, default: float, faults: list[str], *, whole: bool = False) -> float:
    """A number from 1 to `most`. The default if a fault was added."""
    value = raw.get(key, default)
    kind: Any = int if whole else int | float
    most = _MOST if whole else _MOST_BASE
    if isinstance(value, bool) or not isinstance(value, kind) or not 1 <= value <= most:
        faults.append(f"{key}: expected {'an integer' if whole else 'a number'} from 1 to {most}; found {show(value)}")
        return default
    return float(value)
