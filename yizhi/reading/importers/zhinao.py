"""360Zhinao (github.com/Qihoo360/360zhinao): Qwen2 under a configuration of its own, with fused kernels.

`qkv_proj` has the rows of each group of heads one after the other: [groups, queries of a group + 2, head]. Its last
two heads are a key's and a value's. `gate_up_proj`, where a file has it, is the gate's rows and then the others'.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from yizhi.errors import InputError, collect_own_faults, show
from yizhi.model.config import EncoderConfig
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Ignored, Place, Rows
from yizhi.reading.importers.opened import Opened
from yizhi.reading.weight_files import TensorFile

# What a configuration may ask for -> the only values that Qwen2 has.
_EXPECTED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "bias": (False, None),  # of o_proj, as is the next
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "logit_scale": (1.0, None),
}
_FUSED = re.compile(
    r"(?P<layer>(?:model\.)?layers\.\d+)\.(?P<module>self_attn\.qkv_proj|mlp\.gate_up_proj)\.(?P<leaf>\w+)"
)
_BUFFER = re.compile(r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)")
ROTARY_TABLE = "rotary positions, which follow from rope_theta"


def read_as_qwen2(raw: Mapping[str, Any], path: Path, opened: Opened) -> tuple[dict[str, Any], Opened]:
    """The configuration and the weights as transformers' Qwen2 has them.

    raw, path: of `config.json`. Raises InputError listing every fault: a setting that Qwen2 does not have, a fused
    tensor that is not as long as the heads say.
    """
    faults = [
        f"{key}: expected {' or '.join(map(show, expected))}; found {show(raw[key])}"
        for key, expected in _EXPECTED.items()
        if key in raw and raw[key] not in expected
    ]
    said = {"rope_theta": 10_000.0, **raw, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    if raw.get("num_key_value_heads") is None:
        said["num_key_value_heads"] = raw.get("num_attention_heads")
    hidden = raw.get("hidden_size")
    if raw.get("intermediate_size") is None and isinstance(hidden, int) and hidden > 0:
        said["intermediate_size"] = default_intermediate_size(hidden)
    config = collect_own_faults(faults, lambda: EncoderConfig.from_dict(said, path))
    if faults or config is None:
        raise InputError(path, faults)
    faults = [
        fault
        for file in opened.weights
        for fault in (
            *_find_wrong_lengths(file, config),
            *_find_wrong_angles(file, config.head_size, said["rope_theta"]),
        )
    ]
    if faults:
        raise InputError(opened.weights[0].path, faults)
    weights: list[TensorFile] = [_split(file, config) for file in opened.weights]
    queries = config.num_attention_heads // config.num_key_value_heads
    rule = (
        f"qkv_proj: each of {config.num_key_value_heads} groups is split into {queries} heads of queries, one of keys "
        f"and one of values, of {config.head_size} rows each"
    )
    notes = ("360Zhinao: written as Qwen2, which computes the same", rule)
    return said, replace(opened, format=f"360Zhinao, {opened.format}", weights=weights, notes=(*opened.notes, *notes))


def default_intermediate_size(hidden_size: int) -> int:
    """The feed-forward's width where the configuration is silent: 8/3 of the hidden size, up to a multiple of 256."""
    return -(-8 * hidden_size // (3 * 256)) * 256


def _parts(module: str, config: EncoderConfig) -> dict[str, Rows]:
    """Qwen2's name of each part of a fused module, and its rows."""
    if module == "mlp.gate_up_proj":
        inner = config.intermediate_size
        return {
            "mlp.gate_proj": Rows("the gate's half", 1, 0, inner),
            "mlp.up_proj": Rows("the half that the gate multiplies", 1, inner, 2 * inner),
        }
    groups, head = config.num_key_value_heads, config.head_size
    queries = config.num_attention_heads // groups * head
    return {
        "self_attn.q_proj": Rows(f"the queries of each of {groups} groups", groups, 0, queries),
        "self_attn.k_proj": Rows(f"the keys of each of {groups} groups", groups, queries, queries + head),
        "self_attn.v_proj": Rows(f"the values of each of {groups} groups", groups, queries + head, queries + 2 * head),
    }


def _find_wrong_lengths(file: TensorFile, config: EncoderConfig) -> list[str]:
    faults = []
    for name, entry in file.entries.items():
        match = _FUSED.fullmatch(name)
        expected = sum(rows.shape(())[0] for rows in _parts(match["module"], config).values()) if match else 0
        if match and entry.shape[:1] != (expected,):
            faults.append(f"{name}: expected {expected} rows, as config.json says; found {list(entry.shape)}")
    return faults


def _find_wrong_angles(file: TensorFile, head: int, base: float) -> list[str]:
    """Stored rotary positions that are not those of `rope_theta`: the authors' code would compute with them."""
    angles = base ** (-np.arange(0, head, 2) / head)  # [d / 2]
    faults = []
    for name, entry in file.entries.items():
        match = _BUFFER.fullmatch(name)
        if match is None:
            continue
        row = 0 if match[1] == "inv_freq" else 16  # of a table, which has a row for each position
        turn = {"inv_freq": None, "cos_cached": np.cos, "sin_cached": np.sin}[match[1]]
        wanted = np.tile(turn(row * angles), 2) if turn else angles
        fits = entry.shape[-1:] == wanted.shape and math.prod(entry.shape[:-1]) > row
        found = file.array(name).reshape(-1, len(wanted))[row] if fits else np.full(len(wanted), np.nan)
        # bfloat16 is within 0.2 %, so an angle of 16 within 0.032. Another base is further off at some pair.
        if not np.allclose(found.astype(np.float64), wanted, rtol=0.01, atol=0.05 if turn else 1e-3):
            faults.append(f"{name}: expected the rotary positions of rope_theta {base:g}; found others")
        file.release(name)
    return faults


def _split(file: TensorFile, config: EncoderConfig) -> ForeignWeights:
    tensors = [
        ForeignTensor(
            *(name, entry.dtype, entry.shape, partial(file.array, name), partial(file.release, name)),
            bits=partial(file.stored, name),
        )
        for name, entry in file.entries.items()
    ]

    def place(tensor: ForeignTensor) -> Place | Sequence[Place] | Ignored:
        if _BUFFER.fullmatch(tensor.name):
            return Ignored(ROTARY_TABLE)
        match = _FUSED.fullmatch(tensor.name)
        if match is None:
            return Place(tensor.name)
        parts = _parts(match["module"], config).items()
        return [Place(f"{match['layer']}.{module}.{match['leaf']}", rows=rows) for module, rows in parts]

    return ForeignWeights(file.path, tensors, place, file.close)
