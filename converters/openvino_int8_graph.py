"""Int8Weights: linear layers of an OpenVINO model over int8 weights, with activations quantized per token.

OpenVINO has no operator for a scale per token. Its CPU plugin multiplies a FakeQuantize of constant range in int8. So a
token is scaled to that range before the product, by its own largest magnitude, and its sums are scaled back after it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from openvino import Model, Node
from openvino import opset15 as ops

from yizhi.converters.forwards.openvino import finish
from yizhi.converters.openvino_graph import Weights
from yizhi.converters.quantize import LARGEST, SMOOTHING, TINY, Outliers, outliers_of, scale_of
from yizhi.converters.weight_file import StoredTensor
from yizhi.model.spec import Embedding

# The signed bytes, which the plugin takes for its own.
_LOWEST, _HIGHEST, _LEVELS = np.float32(-128), np.float32(127), 256
_ZERO_POINT = np.float32(128)  # the uint8 that stands for 0, in the rows that integer sums are checked with


class Int8Weights(Weights):
    """As `yizhi.converters.onnx_int8_graph.Int8Graph`, whose arithmetic this is.

    A row (token) is quantized by its own largest magnitude, and integer sums do not depend on their order, so no row
    depends on another.
    """

    def __init__(self, stored: Mapping[str, StoredTensor], outliers: Outliers | None = None) -> None:
        """`stored` holds `NAME` as int8 [outputs, inputs] and `NAME.scale` [outputs] where they are quantized.

        outliers: of those multiplied in float32, `stored` holds the columns as `NAME.outliers` [count, outputs].
        """
        super().__init__(stored)
        self._outliers = outliers or Outliers()
        # Asked again (query, key, value), the same values.
        self._prepared: dict[tuple[object, ...], Node] = {}
        self._quantized: dict[str, tuple[Node, Node]] = {}

    def lookup(self, table: Embedding, ids: Node) -> Node:
        """Rows of an embedding table, each times its scale where the table is int8: […] -> […, E]."""
        rows, scale = super().lookup(table, ids), scale_of(table.weight)
        if scale not in self:
            return rows
        scales = ops.unsqueeze(ops.gather(self[scale], ids, 0, name=f"{scale}/Gather"), [-1])  # […, 1]
        return ops.multiply(ops.convert(rows, "f32"), scales, name=f"{table.name}/Multiply")

    def linear(self, scope: str, weight: str, bias: str | None, x: Node) -> Node:
        """x Wᵀ + b, or x Wᵀ: […, inputs] -> […, outputs]."""
        if scale_of(weight) not in self:
            return super().linear(scope, weight, bias, x)
        values, scales = self.quantize(self._without_outliers(weight, x))
        y = ops.multiply(self._product(scope, weight, values), scales, name=f"{scope}/Multiply")
        if self._outliers.in_float32(weight):
            large = ops.gather(x, list(self._outliers.of(weight)), -1)  # […, count]
            columns = self[outliers_of(weight)]  # [count, outputs]
            apart = ops.matmul(large, columns, False, False, name=f"{outliers_of(weight)}/MatMul")
            y = ops.add(y, apart, name=f"{scope}/Sum")
        return ops.add(y, self[bias], name=f"{scope}/Add") if bias else y

    def quantize(self, x: Node) -> tuple[Node, Node]:
        """Values −127 … 127 […, inputs] and their scales […, 1]; for the same x (query, key, value), the same ones."""
        name = x.get_name()
        if name not in self._quantized:
            largest = ops.maximum(self.magnitudes(x), np.float32(TINY))  # […, 1]
            values = ops.multiply(x, ops.divide(np.float32(LARGEST), largest))
            self._quantized[name] = _to_int8(values), ops.multiply(largest, np.float32(1 / LARGEST))
        return self._quantized[name]

    def magnitudes(self, x: Node) -> Node:
        """The largest magnitude of each row: […, inputs] -> […, 1]."""
        highest, lowest = (reduce(x, [-1], keep_dims=True) for reduce in (ops.reduce_max, ops.reduce_min))
        return ops.maximum(highest, ops.negative(lowest))  # not of abs(x), which would be written and read again

    def integer_sums(self, weight: str, rows: Node) -> Node:
        """The integer sums of a linear layer before scaling, of rows [count, widest], 128 for 0: [count, outputs]."""
        inputs = self._stored[weight].shape[1]
        values = ops.subtract(ops.convert(ops.slice(rows, [0], [inputs], [1], [1]), "f32"), _ZERO_POINT)
        return ops.matmul(_to_int8(values), ops.convert(self[weight], "f32"), False, True, name=f"{weight}/MatMul")

    def _product(self, scope: str, weight: str, values: Node) -> Node:
        """Integer sums of int8 values and a kernel, each output times its scale: […, outputs]."""
        kernel = ops.multiply(ops.convert(self[weight], "f32"), ops.unsqueeze(self[scale_of(weight)], [1]))
        return ops.matmul(values, kernel, False, True, name=f"{scope}/MatMul")

    def _without_outliers(self, weight: str, x: Node) -> Node:
        """x […, inputs] with its outlier channels smoothed, or zeros in them; x itself where it has none."""
        channels = list(self._outliers.of(weight))
        if not channels:
            return x
        factor = 0.0 if self._outliers.in_float32(weight) else 1 / SMOOTHING
        key = x.get_name(), factor, *channels
        if key not in self._prepared:
            ones = ops.broadcast(np.float32(1), [self._stored[weight].shape[1]])
            factors = ops.scatter_elements_update(ones, channels, np.full(len(channels), factor, np.float32), 0)
            self._prepared[key] = ops.multiply(x, factors)
        return self._prepared[key]


def _to_int8(values: Node) -> Node:
    """Values rounded to −128 … 127, halves to even, which the plugin keeps as bytes."""
    return ops.fake_quantize(values, _LOWEST, _HIGHEST, _LOWEST, _HIGHEST, _LEVELS)


def build_integer_check(weights: Int8Weights, names: Sequence[str]) -> Model:
    """A model of the sums that each int8 kernel's product gives before they are scaled, as NAME.sums.

    The input `rows` is uint8 [count, widest], of which each takes as many columns as it has inputs; outputs are
    float32 [count, outputs], exact below 2²⁴.
    """
    rows = ops.parameter([-1, -1], np.uint8, name="rows")
    return finish([rows], {f"{name}.sums": weights.integer_sums(name, rows) for name in names}, "integers")
