"""Graph: one subgraph of a .tflite model, built operator by operator, over weights that all subgraphs share.

Tensor names say which parameter an operator uses (`bert.encoder.layer.0.attention.self.query/FULLY_CONNECTED`).
Equal calls give equal bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from yizhi.model.layout import LITERT_CONSTANT
from yizhi.model.spec import Embedding

FLOAT, INT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.TensorType.INT8
# An axis that the inputs decide.
ANY = -1

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of a subgraph: its number there, its name and its shape."""

    index: int
    name: str
    shape: Shape


@dataclass(frozen=True)
class Operator:
    """One step of a subgraph; tensors by their numbers."""

    name: str
    version: int
    inputs: list[int]
    result: int
    options: Any


@dataclass(frozen=True)
class Weight:
    """A parameter as the model stores it: one of FLOAT and INT8, its shape, and the scales [outputs] of an int8 one."""

    dtype: int
    shape: Shape
    scales: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return int(np.prod(self.shape)) * (1 if self.dtype == INT8 else 4)


class Once:
    """A table of the flatbuffer that several others hold, and that is written once."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._packed: tuple[Any, int] = None, 0

    def Pack(self, builder: Any) -> int:
        """Its offset in this builder's bytes."""
        if self._packed[0] is not builder:
            self._packed = builder, int(self._table.Pack(builder))
        return self._packed[1]


@dataclass
class Buffers:
    """What all subgraphs share: weights, by name, and constants, by value. A buffer's number is its place here.

    Buffer 0 is the empty one of every tensor that is computed.
    """

    weights: Mapping[str, Weight]
    constants: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = {name: number for number, name in enumerate(self.weights, 1)}
        self._tensors: dict[str, Once] = {}

    def number_of(self, data: bytes) -> int:
        """The buffer of a constant."""
        return self.constants.setdefault(data, 1 + len(self.weights) + len(self.constants))

    def tensor(self, name: str) -> Once:
        """The weight as a tensor, the same in every subgraph."""
        if name not in self._tensors:
            weight = self.weights[name]
            tensor = make_tensor(name, weight.dtype, weight.shape, self._numbers[name])
            if weight.scales is not None:
                zeros = np.zeros(len(weight.scales), np.int64)
                tensor.quantization = schema.QuantizationParametersT(scale=weight.scales, zeroPoint=zeros)
            self._tensors[name] = Once(tensor)
        return self._tensors[name]


def make_tensor(name: str, dtype: int, shape: Shape, buffer: int = 0) -> schema.TensorT:
    """A tensor's table; an axis that inputs decide counts as 1 until they are resized."""
    signature = list(shape) if ANY in shape else None
    static = [1 if size == ANY else size for size in shape]
    return schema.TensorT(shape=static, type=dtype, buffer=buffer, name=name, shapeSignature=signature, hasRank=True)


class Graph:
    """One subgraph under construction. Subclasses say how `lookup` and `linear` compute."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self.tensors: list[schema.TensorT | Once] = []
        self.operators: list[Operator] = []
        self._known: dict[str, Value] = {}
        self._constants: dict[str, bytes] = {}
        self._uses: dict[str, int] = {}
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, Value] = {}

    def input(self, name: str, dtype: int, shape: Shape) -> Value:
        """Declare an input of the subgraph."""
        self.inputs[name] = self._add(make_tensor(name, dtype, shape), name, shape)
        return self.inputs[name]

    def output(self, name: str, value: Value) -> None:
        """Declare a value as an output of this name."""
        self.outputs[name] = value

    def weight(self, name: str) -> Value:
        """A parameter."""
        if name not in self._known:
            self._known[name] = self._add(self._buffers.tensor(name), name, self._buffers.weights[name].shape)
        return self._known[name]

    def constant(self, name: str, value: Any, dtype: type = np.int32) -> Value:
        """A number or a vector that is no parameter. One name, one value."""
        array = np.asarray(value, np.dtype(dtype).newbyteorder("<"))
        if self._constants.setdefault(name, array.tobytes()) != array.tobytes():
            raise ValueError(f"{name}: already a constant of another value")
        if name not in self._known:
            number = self._buffers.number_of(array.tobytes())
            kind = FLOAT if dtype is np.float32 else INT32
            tensor = make_tensor(f"{LITERT_CONSTANT}{name}", kind, array.shape, number)
            self._known[name] = self._add(tensor, name, array.shape)
        return self._known[name]

    def node(
        self,
        scope: str,
        operator: str,
        inputs: Sequence[Value],
        shape: Shape,
        options: Any = None,
        dtype: int = FLOAT,
        version: int = 1,
    ) -> Value:
        """Add the operator `scope/OPERATOR` and return its result, of this shape and type.

        A name that is taken gets a number: a layer that ALBERT runs for the third time is `…/FULLY_CONNECTED_2`.
        options: the operator's own table in the schema, where it has one.
        version: the operator's first version that computes this call; an older runtime rejects the file.
        """
        name = f"{scope}/{operator}"
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        name = f"{name}_{uses - 1}" if uses > 1 else name
        result = self._add(make_tensor(name, dtype, shape), name, shape)
        self.operators.append(Operator(operator, version, [value.index for value in inputs], result.index, options))
        return result

    def missing(self) -> Value:
        """The value of an optional input that is absent."""
        return Value(-1, "", ())

    def is_quantized(self, weight: str) -> bool:
        """Whether a parameter is stored as int8."""
        return self._buffers.weights[weight].scales is not None

    def lookup(self, table: Embedding, ids: Value) -> Value:
        """Rows of an embedding table: […] -> […, E]."""
        raise NotImplementedError

    def linear(self, scope: str, weight: str, bias: str | None, x: Value) -> Value:
        """x Wᵀ + b, or x Wᵀ, over the last axis: […, inputs] -> […, outputs]."""
        raise NotImplementedError

    def _add(self, tensor: schema.TensorT | Once, name: str, shape: Shape) -> Value:
        self.tensors.append(tensor)
        return Value(len(self.tensors) - 1, name, shape)


@dataclass(frozen=True)
class Signature:
    """A named entry of the model: a graph, and the outputs that it gives."""

    graph: Graph
    outputs: tuple[str, ...]
