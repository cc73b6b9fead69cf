"""Graph: an ONNX graph, built node by node, over one file of weights.

Node names say which parameter a node uses (`bert.encoder.layer.0.attention.self.query/Gemm`), and a
node's result is named after the node. Equal calls give equal bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto, helper

from yizhi.converters.onnx_files import WEIGHT_FILE
from yizhi.converters.weight_file import StoredTensor
from yizhi.model.spec import Embedding, Linear

# Fixed, so that an artifact's bytes do not depend on which onnx release wrote them. Opset 20 is the
# first with Gelu; IR version 9 came with it (onnx 1.15, ONNX Runtime 1.17).
OPSET = 20
IR_VERSION = 9
# ONNX Runtime's own operators.
CONTRIB_DOMAIN = "com.microsoft"
CONTRIB_OPSET = 1

Shape = Sequence[int | str]

_HALVES = (TensorProto.BFLOAT16, TensorProto.FLOAT16)


class Graph:
    """One graph under construction. Subclasses say how `lookup` and `linear` compute."""

    def __init__(self, weights: Mapping[str, StoredTensor]) -> None:
        """`weights` are the initializers that the graph may use."""
        self._weights = weights
        self._proto = GraphProto(name="encoder")
        self._initializers: dict[str, TensorProto] = {}
        self._uses: dict[str, int] = {}
        self._widened: dict[str, str] = {}

    def input(self, name: str, dtype: int, shape: Shape) -> str:
        """Declare a graph input; named axes are dynamic."""
        self._proto.input.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int, shape: Shape) -> None:
        """Declare the value `name` as a graph output."""
        self._proto.output.append(helper.make_tensor_value_info(name, dtype, shape))

    def weight(self, name: str) -> str:
        """A tensor of the weight file, as float32 where it is stored in 16 bits."""
        if not self.is_half(name):
            return self.stored(name)
        if name not in self._widened:
            self._widened[name] = self.widened(name, self.stored(name))
        return self._widened[name]

    def is_half(self, name: str) -> bool:
        """Whether a tensor of the weight file is stored in 16 bits."""
        return self._weights[name].dtype in _HALVES

    def widened(self, scope: str, x: str) -> str:
        """Numbers of 16 bits as float32, exactly."""
        return self.node(scope, "Cast", [x], to=TensorProto.FLOAT)

    def stored(self, name: str) -> str:
        """An initializer of the weight file, as it is stored."""
        if name not in self._initializers:
            stored = self._weights[name]
            place = {"location": WEIGHT_FILE, "offset": stored.offset, "length": stored.nbytes}
            self._initializers[name] = TensorProto(
                name=name,
                data_type=stored.dtype,
                dims=stored.shape,
                data_location=TensorProto.EXTERNAL,
                external_data=[StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()],
            )
        return name

    def constant(self, name: str, dtype: int, value: float | Sequence[float]) -> str:
        """A number or a vector kept in the graph itself. One name, one value."""
        values, shape = (value, [len(value)]) if isinstance(value, Sequence) else ([value], [])
        tensor = helper.make_tensor(name, dtype, shape, values)
        if self._initializers.setdefault(name, tensor) != tensor:
            raise ValueError(f"{name}: already a constant of another value")
        return name

    def node(
        self,
        scope: str,
        operator: str,
        inputs: Sequence[str],
        *,
        result: str = "",
        second: str = "",
        **attributes: Any,
    ) -> str:
        """Add the node `scope/operator` and return the name of its result, which is its own unless given.

        A name that is taken gets a number: a layer that ALBERT runs for the third time is `…/Gemm_2`.
        second: the name of another result, where the operator has one.
        """
        name = f"{scope}/{operator}"
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        name = f"{name}_{uses - 1}" if uses > 1 else name
        result = result or name
        self._proto.node.append(
            helper.make_node(operator, inputs, [result, second] if second else [result], name=name, **attributes)
        )
        return result

    def lookup(self, table: Embedding, ids: str) -> str:
        """Rows of an embedding table: […] -> […, E]."""
        raise NotImplementedError

    def linear(self, scope: str, weight: str, bias: str | None, x: str) -> str:
        """x Wᵀ + b, or x Wᵀ: [N, inputs] -> [N, outputs]."""
        raise NotImplementedError

    def activated(self, part: Linear, activation: Callable[["Graph", str, str], str], x: str, reader: Linear) -> str:
        """activation(x Wᵀ + b): [N, inputs] -> [N, outputs]. reader: the linear layer that reads it."""
        return activation(self, part.name, self.linear(part.name, part.weight, part.bias, x))

    def model(self) -> ModelProto:
        """The finished model: the graph, IR version and opset, and no field that could differ between builds."""
        graph = GraphProto()
        graph.CopyFrom(self._proto)
        graph.initializer.extend(self._initializers.values())
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == CONTRIB_DOMAIN for node in graph.node):
            opsets.append(helper.make_opsetid(CONTRIB_DOMAIN, CONTRIB_OPSET))
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="yizhi")
