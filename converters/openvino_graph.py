"""OpenVINO models over one file of weights: their parameters while they are built, their names, and their text.

OpenVINO writes a model as XML with the place of each constant in a file of weights. Its own writer would write the
weights once for each model. Here the models are built over placeholders, and the places are put into their text.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import Model, Node
from openvino import opset15 as ops

from yizhi.converters.weight_file import StoredTensor
from yizhi.model.rotary import is_table_name
from yizhi.model.spec import Embedding

# Where a graph's text says that a constant lies: all before the number, the constant's name, and the number.
_PLACE = re.compile(r'(<layer id="\d+" name="([^"]+)" type="Const" [^>]*>\s*<data [^>]*?offset=")\d+')

# OpenVINO's names of types, as its files have them.
FLOAT, INT8 = "f32", "i8"
NUMPY_TYPES: Mapping[str, type[np.generic]] = {FLOAT: np.float32, INT8: np.int8}


class Weights(Mapping[str, Node]):
    """The parameters of one model, as constants named after them, each made at its first use.

    They hold zeros, which take no memory. Subclasses say how `lookup` and `linear` compute.
    """

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        """`stored`: the tensors that the model may use, of which it needs types and shapes."""
        self._stored = stored
        self._made: dict[str, Node] = {}

    def __getitem__(self, name: str) -> Node:
        if name not in self._made:
            stored = self._stored[name]
            zeros = np.zeros(stored.shape, NUMPY_TYPES[stored.dtype])
            self._made[name] = ops.constant(zeros, shared_memory=True, name=name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def lookup(self, table: Embedding, ids: Node) -> Node:
        """Rows of an embedding table: […] -> […, E]."""
        return ops.gather(self[table.weight], ids, 0, name=f"{table.name}/Gather")

    def linear(self, scope: str, weight: str, bias: str | None, x: Node) -> Node:
        """x Wᵀ + b, or x Wᵀ: […, inputs] -> […, outputs], over the checkpoint's own [outputs, inputs] kernel."""
        product = ops.matmul(x, self[weight], False, True, name=f"{scope}/MatMul")
        return ops.add(product, self[bias], name=f"{scope}/Add") if bias else product


def name_nodes(model: Model) -> None:
    """Give every node a name that equal builds give it.

    One that has a name keeps it, with a number where it is taken: a layer that ALBERT runs for the third time is
    `…/MatMul_2`. The others are numbered by kind. OpenVINO's own numbers count all that the process has made.
    """
    uses: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        base = node.get_type_name() if name.endswith(node.get_name()) else name
        node.set_friendly_name(f"{base}_{uses[base]}" if uses[base] else base)
        uses[base] += 1


def own_constants(model: Model) -> dict[str, NDArray[Any]]:
    """By node, what a model holds beside parameters of the checkpoint: shapes, axes, factors, and rotary positions."""
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    return {
        name: np.array(node.data)
        for node in constants
        if (name := node.get_friendly_name()).partition("_")[0] == "Constant" or is_table_name(name)
    }


def write_text(model: Model, offsets: Mapping[str, int]) -> bytes:
    """The model's XML, whose constants lie at these bytes of the file of weights, by node name."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.serialize(model, str(path), os.devnull)
        text = path.read_text(encoding="utf-8")
    text, count = _PLACE.subn(lambda found: f"{found[1]}{offsets[found[2]]}", text)
    if count != sum(node.get_type_name() == "Constant" for node in model.get_ordered_ops()):
        raise RuntimeError("this version of OpenVINO writes constants in an unknown form")
    return text.encode()
