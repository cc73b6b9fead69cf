"""Int8Graph: linear layers over int8 weights in a .tflite model. docs/int8.md is the contract."""

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from yizhi.converters.litert_graph import ANY, FLOAT, INT32, Buffers, Value
from yizhi.converters.litert_operators import add, gather, multiply
from yizhi.converters.quantize import SMOOTHING, Outliers, outliers_of
from yizhi.converters.to_litert import Float32Graph
from yizhi.model.spec import Embedding


class Int8Graph(Float32Graph):
    """Each linear layer is a FULLY_CONNECTED of float32 activations and an int8 kernel.

    LiteRT quantizes each row (token) by its own smallest and largest value, and adds integers, whose sums do not depend
    on their order: no row depends on another.
    """

    def __init__(self, buffers: Buffers, outliers: Outliers | None = None) -> None:
        """outliers: of those multiplied in float32, there are the columns as `NAME.outliers` [outputs, count]."""
        super().__init__(buffers)
        self._outliers = outliers or Outliers()
        # Asked again (query, key, value), the same values.
        self._rest: dict[tuple[object, ...], Value] = {}
        self._large: dict[tuple[object, ...], Value] = {}

    def lookup(self, table: Embedding, ids: Value) -> Value:
        """Rows of an embedding table [B, T, E], each times its scale where the table is int8."""
        if not self.is_quantized(table.weight):
            return super().lookup(table, ids)
        flat = self.node(table.name, "RESHAPE", [ids, self.constant("flat", [ANY])], (ANY,), dtype=INT32)
        inputs = [flat, self.weight(table.weight)]
        # The first version that knows a scale for each row.
        rows = self.node(table.name, "EMBEDDING_LOOKUP", inputs, (ANY, table.size), version=4)
        parts = [
            self.node(table.name, "SHAPE", [ids], (2,), schema.ShapeOptionsT(outType=INT32), dtype=INT32),
            self.constant(f"size.{table.size}", [table.size]),
        ]
        shape = self.node(table.name, "CONCATENATION", parts, (3,), schema.ConcatenationOptionsT(), dtype=INT32)
        return self.node(table.name, "RESHAPE", [rows, shape], (*ids.shape, table.size))

    def linear(self, scope: str, weight: str, bias: str | None, x: Value) -> Value:
        """x Wᵀ + b, or x Wᵀ, over the last axis: […, inputs] -> […, outputs]."""
        if not self.is_quantized(weight):
            return super().linear(scope, weight, bias, x)
        added = self.weight(bias) if bias else self.missing()
        y = self.product(scope, self._without_outliers(weight, x), weight, added)
        if not self._outliers.in_float32(weight):
            return y
        options = schema.FullyConnectedOptionsT(keepNumDims=True)
        inputs = [self._only_outliers(weight, x), self.weight(outliers_of(weight)), self.missing()]
        return add(self, scope, y, self.node(scope, "FULLY_CONNECTED", inputs, y.shape, options, version=5))

    def product(self, scope: str, x: Value, weight: str, bias: Value) -> Value:
        """x Wᵀ + b, or x Wᵀ, of an int8 kernel.

        Around a zero point that each row has of its own, as XNNPACK does it whatever the option says: so LiteRT's other
        kernels compute the same.
        """
        kernel = self.weight(weight)
        options = schema.FullyConnectedOptionsT(keepNumDims=True, asymmetricQuantizeInputs=True)
        shape = (*x.shape[:-1], kernel.shape[0])
        # The first version that knows a scale for each output of an int8 kernel.
        return self.node(scope, "FULLY_CONNECTED", [x, kernel, bias], shape, options, version=12)

    def _without_outliers(self, weight: str, x: Value) -> Value:
        """x […, inputs] with its outlier channels smoothed, or zeros in them; x itself where it has none."""
        channels = self._outliers.of(weight)
        if not channels:
            return x
        factor = 0.0 if self._outliers.in_float32(weight) else 1 / SMOOTHING
        key = (x, factor, *channels)
        if key not in self._rest:
            size = x.shape[-1]
            places = self.constant(f"places.{'_'.join(map(str, channels))}", [[channel] for channel in channels])
            changes = self.constant(f"changes.{factor}.{len(channels)}", [factor - 1] * len(channels), np.float32)
            change = self.node(x.name, "SCATTER_ND", [places, changes, self.constant(f"shape.{size}", [size])], (size,))
            one = self.constant("one.float", 1, np.float32)
            self._rest[key] = multiply(self, x.name, x, add(self, x.name, change, one))
        return self._rest[key]

    def _only_outliers(self, weight: str, x: Value) -> Value:
        """The outlier channels of x: […, count]."""
        channels = self._outliers.of(weight)
        key = (x, *channels)
        if key not in self._large:
            places = self.constant(f"channels.{'_'.join(map(str, channels))}", channels)
            self._large[key] = gather(self, x.name, x, places, axis=len(x.shape) - 1)
        return self._large[key]


def build_integer_check(g: Int8Graph, widths: Mapping[str, int]) -> None:
    """Add, for each int8 weight, its product with `rows` and without a bias, as NAME.sums.

    The input `rows` is float32 [count, widest], of which each takes as many columns as it has inputs. Where a row's
    smallest value is −128 and its largest 127, LiteRT multiplies it as it is, and an output is an integer times its
    scale.
    """
    rows = g.input("rows", FLOAT, (ANY, max(widths.values())))
    for weight, width in widths.items():
        ends = [g.constant("start", [0, 0]), g.constant(f"columns.{width}", [ANY, width])]
        columns = g.node(weight, "SLICE", [rows, *ends], (ANY, width))
        g.output(f"{weight}.sums", g.product(weight, columns, weight, g.missing()))
