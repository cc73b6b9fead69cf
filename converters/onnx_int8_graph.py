"""Int8Graph: linear layers over int8 weights, with activations quantized per token. docs/int8.md is the contract."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import TensorProto

from yizhi.converters.onnx_files import U8S8, U8U8
from yizhi.converters.onnx_graph import CONTRIB_DOMAIN, Graph
from yizhi.converters.quantize import LARGEST, SMOOTHING, TINY, Outliers, outliers_of, scale_of
from yizhi.converters.to_onnx import Float32Graph
from yizhi.converters.weight_file import StoredTensor
from yizhi.model.spec import Embedding, Linear

FLOAT, INT8, UINT8, INT64 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64

ZERO_POINT = 128  # the uint8 that stands for 0
_VECTOR = 16  # float32 numbers in a processor's widest vectors; more than any input has outlier channels


@dataclass(frozen=True)
class Kernel:
    """Values in a graph: bytes [outputs, inputs], scales and bias [outputs], and columns in float32 [count, outputs].

    bias: empty where there is none. columns: empty where float32 multiplies none.
    """

    values: str
    scales: str
    bias: str
    columns: str
    outputs: int

    def change(self, vectors: Callable[[str], str]) -> "Kernel":
        """With this done to what has an element for each output along its last axis."""
        columns, bias = (vectors(name) if name else "" for name in (self.columns, self.bias))
        return replace(self, scales=vectors(self.scales), bias=bias, columns=columns)


class Int8Graph(Float32Graph):
    """Each linear layer multiplies uint8 activations by int8 weights and adds them up exactly, in int32.

    A row (token) is quantized by its own largest magnitude, and integer sums do not depend on their
    order, so no row depends on another.
    """

    def __init__(
        self, weights: Mapping[str, StoredTensor], products: str = U8U8, outliers: Outliers | None = None
    ) -> None:
        """`weights` holds `NAME` as int8 [outputs, inputs] and `NAME.scale` [outputs] where they are quantized.

        products: U8U8 or U8S8. Both give the same sums, and so the same bits, where the second is exact at all.
        outliers: of those multiplied in float32, `weights` holds the columns as `NAME.outliers` [count, outputs].
        """
        super().__init__(weights)
        self._products = products
        self._outliers = outliers or Outliers()
        # Asked again (query, key, value), the same values.
        self._rest: dict[tuple[object, ...], str] = {}
        self._large: dict[tuple[object, ...], str] = {}
        self._quantized: dict[str, tuple[str, str]] = {}
        self._unsigned: dict[str, str] = {}

    def lookup(self, table: Embedding, ids: str) -> str:
        """Rows of an embedding table, each times its scale where the table is int8: […] -> […, E]."""
        rows, scale = super().lookup(table, ids), scale_of(table.weight)
        if scale not in self._weights:
            return rows
        scales = self.node(scale, "Gather", [self.weight(scale), ids], axis=0)
        scales = self.node(scale, "Unsqueeze", [scales, self._last_axis()])  # […, 1]
        return self.node(table.name, "Mul", [self.node(table.name, "Cast", [rows], to=FLOAT), scales])

    def linear(self, scope: str, weight: str, bias: str | None, x: str) -> str:
        """x Wᵀ + b, or x Wᵀ: [N, inputs] -> [N, outputs].

        QGemm is ONNX Runtime's own. It takes W as the checkpoint has it, so that one copy serves
        the embeddings and a decoder tied to them, and it scales as it sums: the standard
        MatMulInteger leaves 32-bit integers to be read again, 3 % slower at 8 × 128 tokens and 15 %
        at 4 × 512. Scaling by row and adding the bias stay apart: ORT 1.31 fuses MatMulInteger, both
        scales and the bias into a MatMulIntegerToFloat that scales the bias too.
        """
        if scale_of(weight) not in self._weights:
            return super().linear(scope, weight, bias, x)
        return self._linear(scope, weight, x, self._kernel(weight, bias))

    def activated(self, part: Linear, activation: Callable[[Graph, str, str], str], x: str, reader: Linear) -> str:
        """As in `Graph`, with zeros for the outlier channels of the reader's input: they are computed apart, from x.

        So the reader need not take them out of its input, which is wide. A channel whose scale and bias are 0 stays 0:
        every activation gives 0 for 0.
        """
        scope, channels = part.name, self._outliers.of(reader.weight)
        if scale_of(part.weight) not in self._weights or not self._outliers.in_float32(reader.weight):
            return super().activated(part, activation, x, reader)
        kernel = self._kernel(part.weight, part.bias)
        kept = self._factors(part.outputs, channels, 0.0)
        others = kernel.change(lambda vector: self.node(scope, "Mul", [vector, kept]))
        # A whole vector of the processor, which adds its last elements apart: those would have other bits.
        more = self.constant(f"shape.{_VECTOR - len(channels)}", INT64, [_VECTOR - len(channels)])
        again = self.node(scope, "Expand", [self._places(channels[:1]), more])
        places = self.node(scope, "Concat", [self._places(channels), again], axis=0)
        few = kernel.change(lambda vector: self.node(scope, "Gather", [vector, places], axis=-1))
        few = replace(few, values=self.node(scope, "Gather", [kernel.values, places], axis=0), outputs=_VECTOR)
        y, apart = (activation(self, scope, self._linear(scope, part.weight, x, one)) for one in (others, few))
        ends = [self.constant(f"end.{end}", INT64, [end]) for end in (0, len(channels))]
        apart = self.node(scope, "Slice", [apart, *ends, self._last_axis()])
        self._rest[y, 0.0, *channels] = y
        self._large[y, reader.biased, *channels] = self._with_one(scope, apart) if reader.biased else apart
        return y

    def _linear(self, scope: str, weight: str, x: str, kernel: "Kernel") -> str:
        """What the kernel, all of a weight's outputs or some, makes of x: [N, inputs] -> [N, kernel.outputs]."""
        values, row_scales = self.quantize(self._without_outliers(weight, x))
        y = self.node(scope, "Mul", [self._product(scope, values, kernel), row_scales])
        if not kernel.columns and not kernel.bias:
            return y
        large = self._only_outliers(weight, x, bool(kernel.bias)) if kernel.columns else ""
        if not kernel.bias:
            return self.node(scope, "Gemm", [large, kernel.columns, y])
        if not kernel.columns:
            # Not Add: ONNX Runtime fuses it with a GELU that follows into BiasGelu, which takes longer than both.
            return self.node(scope, "Sub", [y, self.node(scope, "Neg", [kernel.bias])])
        # The bias goes along as one more column, whose factor is 1: a sum less to write and to read.
        rows = [kernel.columns, self.node(scope, "Unsqueeze", [kernel.bias, self._zero()])]
        thin = self.node(scope, "Concat", rows, axis=0)  # [count + 1, outputs]
        return self.node(scope, "Gemm", [large, thin, y])

    def integer_sums(self, weight: str, rows: str) -> str:
        """The integer sums of a linear layer before scaling, for given uint8 rows [count, widest]: [count, outputs]."""
        outputs, inputs = self._weights[weight].shape
        ends = [self.constant(f"end.{end}", INT64, [end]) for end in (0, inputs)]
        values = self.node(weight, "Slice", [rows, *ends, self.constant("columns", INT64, [1])])
        ones = self.constant(f"ones.{outputs}", FLOAT, [1.0] * outputs)
        return self._product(weight, values, Kernel(self._bytes(weight), ones, "", "", outputs))

    def outputs_of(self, weight: str) -> int:
        """How many outputs a kernel has."""
        return self._weights[weight].shape[0]

    def quantize(self, x: str) -> tuple[str, str]:
        """uint8 values [N, inputs] and their scales [N, 1]; for the same x again (query, key, value), the same ones."""
        if x not in self._quantized:
            highest = self.node(x, "ReduceMax", [x, self._last_axis()])  # [N, 1]
            lowest = self.node(x, "ReduceMin", [x, self._last_axis()])
            tiny = self.constant("tiny", FLOAT, TINY)
            largest = self.node(x, "Max", [highest, self.node(x, "Neg", [lowest]), tiny])
            scales = self.node(x, "Div", [largest, self.constant("largest_int8", FLOAT, LARGEST)])
            flat = self.node(x, "Squeeze", [scales, self._last_axis()])  # [N]
            zero_points = self.node(x, "Expand", [self._zero_point(), self.node(x, "Shape", [flat])])
            self._quantized[x] = self.node(x, "QuantizeLinear", [x, flat, zero_points], axis=0), scales
        return self._quantized[x]

    def _without_outliers(self, weight: str, x: str) -> str:
        """x [N, inputs] with its outlier channels smoothed, or zeros in them; x itself where it has none.

        ONNX Runtime makes the factors when it opens the graph.
        """
        channels, inputs = self._outliers.of(weight), self._weights[weight].shape[1]
        if not channels:
            return x
        factor = 0.0 if self._outliers.in_float32(weight) else 1 / SMOOTHING
        key = x, factor, *channels
        if key not in self._rest:
            self._rest[key] = self.node(x, "Mul", [x, self._factors(inputs, channels, factor)])
        return self._rest[key]

    def _only_outliers(self, weight: str, x: str, with_one: bool) -> str:
        """The outlier channels of x, and a 1 for a bias: [N, count + 1], or [N, count].

        Asked for after the product, so that ONNX Runtime gathers before it, while the processor's cache holds x.
        """
        channels = self._outliers.of(weight)
        key = x, with_one, *channels
        if key not in self._large:
            taken = self.node(x, "Gather", [x, self._places(channels)], axis=1)
            self._large[key] = self._with_one(x, taken) if with_one else taken
        return self._large[key]

    def _with_one(self, scope: str, x: str) -> str:
        """[N, count] -> [N, count + 1]."""
        return self.node(scope, "Pad", [x, self.constant("one_more", INT64, [0, 0, 0, 1]), self._one()])

    def _factors(self, width: int, channels: Sequence[int], factor: float) -> str:
        """Ones, but for some channels: [width]."""
        ones = self.node("outliers", "Expand", [self._one(), self.constant(f"shape.{width}", INT64, [width])])
        updates = self.constant(f"factors.{factor}.{len(channels)}", FLOAT, [factor] * len(channels))
        return self.node("outliers", "ScatterElements", [ones, self._places(channels), updates])

    def _places(self, channels: Sequence[int]) -> str:
        return self.constant(f"outliers.{'_'.join(map(str, channels))}", INT64, channels)

    def _product(self, scope: str, values: str, kernel: "Kernel") -> str:
        """Integer sums of uint8 values [N, inputs] and a kernel, each output times its scale: [N, outputs]."""
        outputs = kernel.outputs
        if self._products == U8S8:
            zeros = self.constant(f"zeros.{outputs}", INT8, [0] * outputs)
        else:
            zeros = self.constant(f"middle.{outputs}", UINT8, [ZERO_POINT] * outputs)
        inputs = [values, self._one(), self._zero_point(), kernel.values, kernel.scales, zeros]
        return self.node(scope, "QGemm", inputs, domain=CONTRIB_DOMAIN, transB=1)

    def _kernel(self, weight: str, bias: str | None) -> "Kernel":
        columns = self.weight(outliers_of(weight)) if self._outliers.in_float32(weight) else ""
        bias = self.weight(bias) if bias else ""
        return Kernel(self._bytes(weight), self.weight(scale_of(weight)), bias, columns, self.outputs_of(weight))

    def _bytes(self, weight: str) -> str:
        """As the product takes them. Unsigned, they are the signed bytes of the file plus 128.

        Casting keeps the bits, and turning the highest adds 128. ONNX Runtime does it once, when it opens the graph.
        """
        if self._products == U8S8:
            return self.weight(weight)
        if weight not in self._unsigned:
            bits = self.node(weight, "Cast", [self.weight(weight)], to=UINT8)
            self._unsigned[weight] = self.node(weight, "BitwiseXor", [bits, self._zero_point()])
        return self._unsigned[weight]

    def _zero(self) -> str:
        return self.constant("first_axis", INT64, [0])

    def _one(self) -> str:
        return self.constant("unit_scale", FLOAT, 1.0)

    def _zero_point(self) -> str:
        return self.constant("zero_point", UINT8, ZERO_POINT)

    def _last_axis(self) -> str:
        return self.constant("last_axis", INT64, [-1])


def build_integer_check(g: Int8Graph, weights: Iterable[str]) -> None:
    """Add, for each int8 weight, the sums that its product gives before they are scaled, as NAME.sums.

    The input `rows` is uint8 [count, widest], of which each takes as many columns as it has inputs; outputs are
    float32 [count, outputs], exact below 2²⁴.
    """
    rows = g.input("rows", UINT8, ("count", "widest"))
    for weight in weights:
        name, outputs = f"{weight}.sums", g.integer_sums(weight, rows)
        g.node(name, "Identity", [outputs], result=name)
        g.output(name, FLOAT, ("count", g.outputs_of(weight)))
