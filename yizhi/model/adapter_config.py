"""The configuration of a bottleneck adapter of the `adapters` library.

It stands in `config.json`, where the library's `save_pretrained` writes it (`adapters`), or in the
`adapter_config.json` of an adapter saved alone. docs/adapters.md says what is supported.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yizhi.errors import show

# The families that the library itself puts adapters into.
ADAPTED_FAMILIES = ("bert", "albert", "electra")
# A part of tensor names in every framework; TensorFlow takes no others.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# A bottleneck wider than the layer is allowed, one that fills the memory is not.
_SMALLEST_FACTOR = 1 / 64
LEARNED, CHANNEL, POST_ADD = "learned", "channel", "post_add"

# non_linearity, in any case -> the function, as the library takes it from transformers.
NON_LINEARITIES: Mapping[str, str] = {
    "relu": "relu",
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
    "silu": "silu",
    "tanh": "tanh",
}

_UNSUPPORTED: Mapping[str, str] = {
    "inv_adapter": "invertible adapters are not supported",
    "invertible_adapter": "invertible adapters are not supported",
    "phm_layer": "parameterized hypercomplex layers (Compacter) are not supported",
    "use_gating": "a gate is not supported: it averages over padding, too, so answers would depend on the batch",
}
# They say how an adapter is made or trained, or what becomes of a decoder; the forward pass of an encoder reads none.
_UNREAD = {
    *("init_weights", "init_weights_seed", "dropout", "stochastic_depth", "cross_adapter"),
    *("inv_adapter_reduction_factor", "architecture", "learn_phm", "hypercomplex_nonlinearity"),
    *("phm_dim", "phm_bias", "phm_c_init", "phm_init_range", "phm_rank"),
    *("factorized_phm_W", "factorized_phm_rule", "shared_W_phm", "shared_phm_rule"),
}
_FLAGS: Mapping[str, bool] = {  # with the library's defaults, for configurations older than a field
    "mh_adapter": False,
    "output_adapter": False,
    "original_ln_before": False,
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "is_parallel": False,
    "adapter_residual_before_ln": False,
}


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter's hyper-parameters, under the library's names.

    reduction_factor: by layer number as text, or for all layers under `default`. scaling: a number, `learned` or
    `channel`. residual_before_ln: true, false or `post_add`. leave_out: numbers of the layers without an adapter.
    """

    name: str
    activation: str
    reduction_factor: tuple[tuple[str, float], ...]
    scaling: float | str
    residual_before_ln: bool | str
    leave_out: frozenset[int]
    mh_adapter: bool
    output_adapter: bool
    original_ln_before: bool
    original_ln_after: bool
    ln_before: bool
    ln_after: bool
    is_parallel: bool
    adapter_residual_before_ln: bool

    def bottleneck_size(self, hidden_size: int, layer: int) -> int:
        """Width of the bottleneck in a layer: ⌊hidden / factor⌋, and 1 at least."""
        factors = dict(self.reduction_factor)
        return max(1, int(hidden_size // factors.get(str(layer), factors.get("default", math.inf))))


def read_adapters(raw: Mapping[str, Any], model_type: str, faults: list[str]) -> AdapterConfig | None:
    """The adapter of a parsed `config.json`. None if it names no adapter, or if faults were added to the list.

    The file's entry is the library's ModelAdaptersConfig: `adapters` maps a name to a key of `config_map`.
    """
    entry = raw.get("adapters")
    if entry is None:
        return None
    adapters = entry.get("adapters") if isinstance(entry, dict) else None
    configs = entry.get("config_map", {}) if isinstance(entry, dict) else None
    if not isinstance(adapters, dict) or not isinstance(configs, dict):
        faults.append(f"adapters: expected an object with adapters and config_map; found {show(entry)}")
        return None
    if entry.get("fusions"):
        faults.append(f"adapters: AdapterFusion is not supported; found {show(entry['fusions'])}")
    if not adapters:
        return None
    if len(adapters) > 1:
        faults.append(
            f"adapters: expected one adapter, because a graph computes only one; found {', '.join(map(show, adapters))}"
        )
        return None
    ((name, key),) = adapters.items()
    if not isinstance(key, str) or not isinstance(configs.get(key), dict):
        faults.append(f"adapters: config_map: {show(key)}, the configuration of {show(name)}, is missing")
        return None
    return read_adapter(name, configs[key], model_type, faults, "adapters: ")


def read_adapter(
    name: object, raw: Mapping[str, Any], model_type: str, faults: list[str], where: str = ""
) -> AdapterConfig | None:
    """Check one adapter's configuration. None if faults were added to the list; each begins with `where`."""
    found: list[str] = []
    if model_type not in ADAPTED_FAMILIES:
        found.append(f"the library has adapters for {', '.join(ADAPTED_FAMILIES)}; found model_type {show(model_type)}")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        found.append(f"name: expected letters, digits, _ and -; found {show(name)}")
    if raw.get("architecture") is not None:
        found.append(f"architecture: expected a bottleneck adapter; found {show(raw['architecture'])}")
        faults += [where + fault for fault in found]
        return None
    found += [f"{key}: {why}; found {show(raw[key])}" for key, why in _UNSUPPORTED.items() if raw.get(key)]
    known = {"reduction_factor", "non_linearity", "scaling", "residual_before_ln", "leave_out"}
    for key in sorted(raw.keys() - known - _FLAGS.keys() - _UNREAD - _UNSUPPORTED.keys()):
        found.append(f"{show(key)}: not known; found {show(raw[key])}")
    flags = {key: raw.get(key, default) for key, default in _FLAGS.items()}
    for key, value in flags.items():
        if not isinstance(value, bool):
            found.append(f"{key}: expected true or false; found {show(value)}")
    if not flags["mh_adapter"] and not flags["output_adapter"]:
        found.append("mh_adapter, output_adapter: expected at least one to be true; found both false")
    residual = raw.get("residual_before_ln", True)
    if residual not in (True, False, POST_ADD) or (residual == POST_ADD and not flags["original_ln_before"]):
        found.append(f"residual_before_ln: expected true, false, or (with original_ln_before) 'post_add'; "
                     f"found {show(residual)}")  # fmt: skip
    non_linearity = raw.get("non_linearity")
    activation = NON_LINEARITIES.get(non_linearity.lower()) if isinstance(non_linearity, str) else None
    if activation is None:
        found.append(f"non_linearity: expected one of {', '.join(NON_LINEARITIES)}; found {show(non_linearity)}")
    scaling = raw.get("scaling", 1.0)
    if scaling not in (LEARNED, CHANNEL) and not _is_number(scaling):
        found.append(f"scaling: expected a number, 'learned' or 'channel'; found {show(scaling)}")
    factors = _read_factors(raw.get("reduction_factor"), found)
    leave_out = raw.get("leave_out") or []
    if not isinstance(leave_out, list) or not all(type(layer) is int for layer in leave_out):
        found.append(f"leave_out: expected a list of layer numbers; found {show(leave_out)}")
    if found or activation is None:
        faults += [where + fault for fault in found]
        return None
    return AdapterConfig(
        name=str(name),
        activation=activation,
        reduction_factor=factors,
        scaling=scaling if isinstance(scaling, str) else float(scaling),
        residual_before_ln=residual,
        leave_out=frozenset(leave_out),
        **flags,
    )


def _read_factors(value: object, faults: list[str]) -> tuple[tuple[str, float], ...]:
    factors: dict[Any, Any] = value if isinstance(value, dict) else {"default": value}
    if not factors or not all(_is_number(factor) and factor >= _SMALLEST_FACTOR for factor in factors.values()):
        faults.append(f"reduction_factor: expected {_SMALLEST_FACTOR} or more, alone or by layer; found {show(value)}")
        return ()
    return tuple(factors.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
