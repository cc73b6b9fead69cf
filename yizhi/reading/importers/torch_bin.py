"""`.bin` files, which are pickles: read with `weights_only=True`, so that nothing in them runs."""

import pickle
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, keep_name, need
from yizhi.reading.importers.opened import Opened, refuse_brightmart, refuse_fairseq
from yizhi.reading.importers.uer import is_uer, open_uer
from yizhi.storage.json_files import read_json_object

if TYPE_CHECKING:
    import torch

_DTYPES = {
    **{f"torch.float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"torch.int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    "torch.bfloat16": "BF16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
# Where training loops keep the weights beside an optimizer's state and counters: Lightning's name first.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
# A moving average of the weights: `ema.`, `ema_model.`, `model_ema.`, `state_dict_ema`, `swa_model`.
_AVERAGE = re.compile(r"(^|_)(ema|swa)(_|$)", re.IGNORECASE)
# What a training loop keeps beside the weights, and no answer depends on.
_OF_TRAINING = re.compile(
    r"(^|_)(optim\w*|optimizers?|lr|scheduler\w*|schedulers|scaler|amp|rng|random|states?|args|hparams|hyper_parameters"
    r"|callbacks|loops|loss|epoch|step|metrics?)(_|$)",
    re.IGNORECASE,
)
# What torch.load raises for a file that is cut short, altered, or something else.
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
)


def open_bin(path: Path) -> Opened:
    """Open a state dictionary, or the shards that a `.bin.index.json` names. Raises InputError."""
    tensors: dict[str, torch.Tensor] = {}
    averages: list[str] = []
    for shard in _shards(path):
        loaded, dropped = _load(shard)
        tensors |= loaded
        averages += dropped
    refuse_brightmart(path, tensors)
    refuse_fairseq(path, tensors)
    found = [_describe(name, tensor) for name, tensor in tensors.items()]
    notes = (f"{', '.join(averages)}: a moving average of the weights, which is not read",) if averages else ()
    if is_uer(tensors):
        uer = open_uer(path, found)
        return replace(uer, notes=(*uer.notes, *notes))
    return Opened("PyTorch .bin", [ForeignWeights(path, found, keep_name)], notes=notes)


def read_bin(path: Path) -> list[ForeignTensor]:
    """The tensors of one state dictionary, whatever their names. Raises InputError."""
    return [_describe(name, tensor) for name, tensor in _load(path)[0].items()]


def _shards(path: Path) -> list[Path]:
    if path.suffix != ".json":
        return [path]
    weight_map = read_json_object(path).get("weight_map")
    named = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not named or not all(isinstance(name, str) and Path(name).name == name for name in named):
        raise InputError(path, "weight_map: expected an object of tensor name to the name of a file in this folder")
    names, beside = set(named), {found.name for found in path.parent.iterdir() if found.is_file()}
    missing = [f"{name}: the shard is missing" for name in sorted(names - beside)]
    if missing:
        raise InputError(path, missing)
    return [path.with_name(name) for name in sorted(names)]


def _load(path: Path) -> "tuple[dict[str, torch.Tensor], list[str]]":
    """A file's tensors, and what it calls moving averages of them, which are left out.

    Those of torch ≥ 1.6 are memory-mapped; before, they were one pickle after another.
    """
    need("torch", path)
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        first = str(error).partition("\n")[0] if "GLOBAL" not in str(error) else _name_global(str(error))
        raise InputError(path, f"holds more than tensors, or is damaged; nothing in it was run: {first}") from None
    except _DAMAGED as error:
        first = str(error).partition("\n")[0]
        raise InputError(path, f"is not a PyTorch file, or is damaged: {type(error).__name__} {first}") from None
    if not isinstance(state, dict):
        raise InputError(path, f"expected a dictionary of tensors; found {type(state).__name__}")
    averages: list[str] = []
    container = next((name for name in _CONTAINERS if isinstance(state.get(name), dict)), None)
    if container:
        beside = [str(name) for name, value in state.items() if name != container and _holds_tensors(value)]
        averages = [name for name in beside if _AVERAGE.search(name)]
        others = [name for name in beside if name not in averages and not _OF_TRAINING.search(name)]
        if others:
            raise InputError(path, [f"{show(name)}: tensors beside {container!r}" for name in others])
        state = state[container]
    firsts = {name: name.partition(".")[0] for name in state if isinstance(name, str)}
    if dropped := {first for first in firsts.values() if _AVERAGE.search(first)} - {*firsts}:
        left = {name: value for name, value in state.items() if firsts.get(name) not in dropped}
        if left:
            state = left
            averages += sorted(dropped)
    state = _without_wrapper(state)
    others = [
        f"{show(name)}: expected a tensor; found {_describe_other(value)}"
        for name, value in state.items()
        if not _is_tensor(name, value)
    ]
    if others:
        raise InputError(path, others)
    return dict(state), averages


def _holds_tensors(value: object) -> bool:
    import torch

    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensors, value))
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _without_wrapper(state: dict[Any, Any]) -> dict[Any, Any]:
    """Without what wraps every name: `module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of a module.

    `model.` before `layers` is a decoder's own name: without it, a tied head would be taken for none.
    """
    for prefix in ("_orig_mod.", "module.", "_orig_mod.", "model.", "module.", "_orig_mod."):
        if prefix == "model." and any(str(name).startswith("model.layers.") for name in state):
            continue
        if state and all(isinstance(name, str) and name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _is_tensor(name: object, value: object) -> bool:
    import torch

    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
    return isinstance(name, str) and dense


def _describe_other(value: object) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return "one without values (meta)" if value.is_meta else f"one of layout {value.layout}"
    return type(value).__name__


def _name_global(message: str) -> str:
    """The sentence of torch's long message that says what the pickle asked for."""
    return next(line.strip() for line in message.splitlines() if "GLOBAL" in line).rpartition(
        "WeightsUnpickler error: "
    )[2]


def _describe(name: str, tensor: "torch.Tensor") -> ForeignTensor:
    def read() -> NDArray[Any]:
        import torch

        plain = tensor.detach().resolve_neg().resolve_conj()
        return plain.to(torch.float32).numpy() if plain.dtype == torch.bfloat16 else plain.numpy()

    def read_bits() -> NDArray[Any]:
        import torch

        bits: NDArray[Any] = tensor.detach().view(torch.int16).numpy()
        return bits.view(np.uint16)

    dtype = _DTYPES.get(str(tensor.dtype), str(tensor.dtype))
    return ForeignTensor(name, dtype, tuple(tensor.shape), read, bits=read_bits if dtype == "BF16" else None)
