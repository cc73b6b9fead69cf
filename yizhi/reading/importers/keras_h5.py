"""`tf_model.h5`: what transformers' TensorFlow classes saved."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Ignored, Place, need
from yizhi.reading.importers.opened import Opened, refuse_brightmart
from yizhi.reading.safetensors_file import SAFETENSORS_TYPES

if TYPE_CHECKING:
    import h5py

_MAX_DEPTH = 32
# transformers' TFAlbertMLMHead has two biases and adds this one; the other keeps whatever it had before training.
_ALBERT_BIAS, _ALBERT_UNUSED = "predictions.decoder.bias", "predictions.bias"
# What h5py raises for a damaged file, depending on where.
_DAMAGED = (RuntimeError, OSError, ValueError, TypeError, KeyError)
# A variable's last part -> (ours, whether it is stored the other way round).
_LEAVES = {
    "kernel": ("weight", True),
    "bias": ("bias", False),
    "gamma": ("weight", False),
    "beta": ("bias", False),
    "weight": ("weight", False),
    "embeddings": ("weight", False),
}


def open_h5(path: Path) -> Opened:
    """Open the weights of one of transformers' Keras models. Raises InputError."""
    need("h5py", path)
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(path, f"is not an HDF5 file, or is damaged: {error}") from None
    try:
        faults: list[str] = []
        tensors = list(_walk(path, file, "", faults))
        if faults:
            raise InputError(path, faults)
        refuse_brightmart(path, (tensor.name for tensor in tensors))
        weights = ForeignWeights(path, tensors, place_name, file.close)
    except _DAMAGED as error:
        file.close()
        if isinstance(error, InputError):
            raise
        raise InputError(path, f"is damaged: {error}") from None
    return Opened("Keras .h5", [weights])


def place_name(tensor: ForeignTensor) -> Place | Ignored | None:
    """`bert/tf_bert_model/bert/encoder/layer_._0/output/dense/kernel:0` -> `bert.encoder.layer.0.output.dense.weight`.

    The first part is a Keras layer, the second the whole model; `_._` stands for a list's index, and `mlm___cls`
    for `cls`. A head's group repeats the embeddings it is tied to.
    """
    path, _, number = tensor.name.rpartition(":")
    *modules, leaf = path.split("/")
    if number != "0" or len(modules) < 3 or leaf not in _LEAVES:
        return None
    modules = [re.sub(r"^.*___", "", part).replace("_._", ".") for part in modules[2:]]
    leaf, transpose = _LEAVES[leaf]
    name = ".".join([*modules, leaf])
    if name == _ALBERT_UNUSED:
        return Ignored(f"TensorFlow's ALBERT adds {_ALBERT_BIAS} in its place")
    return Place(name, transpose)


def _walk(path: Path, group: "h5py.Group", prefix: str, faults: list[str]) -> Iterator[ForeignTensor]:
    """Every dataset, by its path. Links are faults: they may lead round in circles, or to other files."""
    import h5py

    if prefix.count("/") > _MAX_DEPTH:
        faults.append(f"{prefix}: nested more than {_MAX_DEPTH} deep")
        return
    for key in group:
        name = prefix + key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            faults.append(f"{name}: is a link")
            continue
        node = group[key]
        if isinstance(node, h5py.Group):
            yield from _walk(path, node, f"{name}/", faults)
        elif not isinstance(node, h5py.Dataset) or node.is_virtual or node.external:
            faults.append(f"{name}: its values are not in this file")
        else:
            yield _describe(path, name, node)


def _describe(path: Path, name: str, dataset: "h5py.Dataset") -> ForeignTensor:
    def read() -> NDArray[Any]:
        try:
            return np.asarray(dataset[()])
        except _DAMAGED as error:
            raise InputError(path, f"{name}: is damaged: {error}") from None

    return ForeignTensor(
        name, SAFETENSORS_TYPES.get(dataset.dtype, str(dataset.dtype)), tuple(dataset.shape or ()), read
    )
