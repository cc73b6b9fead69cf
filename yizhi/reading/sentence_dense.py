"""sentence-transformers' Dense modules: linear layers with activations after pooling, each in its own folder."""

import re
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from yizhi.errors import InputError, collect_faults, show
from yizhi.model.spec import Dense, Linear
from yizhi.reading.safetensors_file import SafetensorsFile
from yizhi.reading.weight_files import WEIGHTS
from yizhi.storage.json_files import read_json_object

# The library's classes, below `torch.nn`, made without arguments.
ACTIVATIONS = {"Tanh": "tanh", "Identity": "identity", "ReLU": "relu", "GELU": "gelu_erf", "SiLU": "silu"}
PICKLE = "pytorch_model.bin"
DENSE = "sentence.dense"
# The one tensor of a Dense that keeps the first numbers of a vector: rows of the identity.
KEPT = "linear.weight"
# Where an artifact has them: the module's number in `modules.json` goes first.
_PLACE = re.compile("([0-9]{1,4})_Dense")
_KEYS = ("in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name")


def dense_name(number: int) -> str:
    """The beginning of a Dense module's canonical names; `linear.weight` and `linear.bias` follow."""
    return f"{DENSE}.{number}"


def find_dense_weights(folder: Path) -> list[Path]:
    """The weights of the Dense modules of an artifact, in their order."""
    found = {path: _PLACE.fullmatch(path.parent.name) for path in folder.glob(f"*_Dense/{WEIGHTS}")}
    numbers = {path: int(place[1]) for path, place in found.items() if place}
    return sorted(numbers, key=numbers.__getitem__)


def read_dense(folder: Path, place: str, number: int, faults: list[str]) -> Dense | None:
    """The module of a Dense `config.json`; None, with lines added to `faults`, if it cannot be used."""
    name = f"{place}/config.json"
    try:
        config = read_json_object(folder / name)
    except InputError as error:
        faults += [f"{name}: {fault}" for fault in error.faults]
        return None
    mine = [f"{key}: not computed here; found {show(config[key])}" for key in config if key not in _KEYS]
    inputs, outputs = (_read_size(config, key, mine) for key in ("in_features", "out_features"))
    kind = config.get("activation_function", "torch.nn.Tanh")  # the library's default
    library, _, activation = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
    if library.partition(".")[0] != "torch" or activation not in ACTIVATIONS:
        mine.append(f"activation_function: expected torch.nn's {', '.join(ACTIVATIONS)}; found {show(kind)}")
    if not isinstance(config.get("bias", True), bool):
        mine.append(f"bias: expected true or false; found {show(config['bias'])}")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            mine.append(f"{key}: expected 'sentence_embedding'; found {show(config[key])}")
    if mine:
        faults += [f"{name}: {fault}" for fault in mine]
        return None
    linear = Linear(f"{dense_name(number)}.linear", inputs, outputs, config.get("bias", True))
    return Dense(linear, ACTIVATIONS[activation])


def open_dense_weights(
    folder: Path, dense: Sequence[Dense], names: Sequence[str], faults: list[str]
) -> list[SafetensorsFile]:
    """The open file of each Dense module; the caller closes it. Adds its faults to `faults`."""
    if len(names) != len(dense):
        faults.append(
            f"{len(dense)} Dense modules, {len(names)} of them with {WEIGHTS}; `yizhi import` reads a {PICKLE}"
        )
        return []
    opened = [collect_faults(faults, partial(SafetensorsFile, folder / name)) for name in names]
    return [file for file in opened if file]


def keeps_first_numbers(path: Path, dense: Dense) -> bool:
    """Whether a Dense module only keeps the first numbers of a vector."""
    linear = dense.linear
    if dense.activation != "identity" or linear.outputs >= linear.inputs or not path.exists():
        return False
    with closing(SafetensorsFile(path)) as file:
        if set(file.entries) != {KEPT} or file.entries[KEPT].shape != (linear.outputs, linear.inputs):
            return False
        return np.array_equal(file.array(KEPT), np.eye(linear.outputs, linear.inputs, dtype=np.float32))


def _read_size(config: dict[str, Any], key: str, faults: list[str]) -> int:
    size = config.get(key)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= 1 << 16:
        faults.append(f"{key}: expected an integer from 1 to {1 << 16}; found {show(size)}")
        return 0
    return size
