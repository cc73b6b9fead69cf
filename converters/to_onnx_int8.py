"""Write ONNX graphs over int8 weights, with activations quantized per token. docs/int8.md is the contract."""

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from yizhi.converters.onnx_files import WEIGHT_FILE, StoredTensor, WeightFile
from yizhi.converters.onnx_graph import CONTRIB_DOMAIN
from yizhi.converters.to_onnx import Float32Graph, write_graphs
from yizhi.errors import InputError
from yizhi.model.spec import KERNEL, Embedding, EncoderSpec, MaskedLMHead
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter

FLOAT, INT8, UINT8, INT64 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64

ZERO_POINT = 128  # the uint8 that stands for 0
LARGEST = 127.0  # what a row's largest magnitude becomes
# The same for weights in the reduced range: 255 · (64 + 64) is still an int16, which is what CPUs without
# VNNI add two products in, saturating (vpmaddubsw).
REDUCED = 64.0
# Rows smaller than this count as zeros, so that no scale is 0 and none is denormal.
TINY = 1e-30

_CHUNK_VALUES = 1 << 20


class Int8Graph(Float32Graph):
    """Each linear layer multiplies uint8 activations by int8 weights and adds them up exactly, in int32.

    A row (token) is quantized by its own largest magnitude, and integer sums do not depend on their
    order, so no row depends on another.
    """

    def __init__(self, weights: Mapping[str, StoredTensor]) -> None:
        """`weights` holds `NAME` as int8 [outputs, inputs] and `NAME.scale` [outputs] where they are quantized."""
        super().__init__(weights)
        self._quantized: dict[str, tuple[str, str]] = {}

    def lookup(self, table: Embedding, ids: str) -> str:
        """Rows of an embedding table, each times its scale where the table is int8: […] -> […, E]."""
        rows, scale = super().lookup(table, ids), scale_of(table.weight)
        if scale not in self._weights:
            return rows
        scales = self.node(scale, "Gather", [self.weight(scale), ids], axis=0)
        scales = self.node(scale, "Unsqueeze", [scales, self._last_axis()])  # […, 1]
        return self.node(table.name, "Mul", [self.node(table.name, "Cast", [rows], to=FLOAT), scales])

    def linear(self, scope: str, weight: str, bias: str, x: str) -> str:
        """x Wᵀ + b: [N, inputs] -> [N, outputs].

        QGemm is ONNX Runtime's own. It takes W as the checkpoint has it, so that one copy serves
        the embeddings and a decoder tied to them, and it scales as it sums: the standard
        MatMulInteger leaves 32-bit integers to be read again, 3 % slower at 8 × 128 tokens and 15 %
        at 4 × 512. Scaling by row and adding the bias stay apart: ORT 1.31 fuses MatMulInteger, both
        scales and the bias into a MatMulIntegerToFloat that scales the bias too.
        """
        if scale_of(weight) not in self._weights:
            return super().linear(scope, weight, bias, x)
        values, row_scales = self.quantize(x)
        outputs = self._weights[weight].shape[0]
        inputs = [values, self.constant("unit_scale", FLOAT, 1.0), self._zero_point()]
        inputs += [self.weight(weight), self.weight(scale_of(weight))]
        inputs += [self.constant(f"zeros.{outputs}", INT8, [0] * outputs)]
        y = self.node(scope, "QGemm", inputs, domain=CONTRIB_DOMAIN, transB=1)
        return self.node(scope, "Add", [self.node(scope, "Mul", [y, row_scales]), self.weight(bias)])

    def quantize(self, x: str) -> tuple[str, str]:
        """uint8 values [N, inputs] and their scales [N, 1]; asked again (query, key, value), the same ones."""
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

    def _zero_point(self) -> str:
        return self.constant("zero_point", UINT8, ZERO_POINT)

    def _last_axis(self) -> str:
        return self.constant("last_axis", INT64, [-1])


def convert(
    checkpoint: Checkpoint, writer: ArtifactWriter, keep_fp32: Collection[str] = (), reduced_range: bool = False
) -> None:
    """Write `model.onnx.data`, with kernels and word embeddings as int8, and `model.onnx` and its sisters.

    keep_fp32: beginnings of the names of parameters that stay float32, as in `kept_names`.
    reduced_range: weights of −64 … 64, whose products no CPU can saturate; see docs/int8.md.
    Raises InputError for a beginning that no quantized parameter has.
    """
    names = quantized_names(checkpoint.spec) - kept_names(checkpoint.spec, keep_fp32)
    largest = REDUCED if reduced_range else LARGEST
    with writer.open(WEIGHT_FILE) as file, ThreadPoolExecutor() as pool:
        weights = WeightFile(file)
        for parameter in checkpoint.parameters():
            if parameter.name not in names:
                weights.add(parameter.name, FLOAT, parameter.shape, checkpoint.chunks(parameter))
                continue
            scales: list[NDArray[np.float32]] = []
            rows = quantize_in_chunks(checkpoint.array(parameter.name), scales, pool, largest)
            weights.add(parameter.name, INT8, parameter.shape, (chunk.data for chunk in rows))
            weights.add(scale_of(parameter.name), FLOAT, parameter.shape[:1], (chunk.data for chunk in scales))
            checkpoint.release(parameter.name)
    write_graphs(Int8Graph, checkpoint.spec, weights.stored, writer)


def quantized_names(spec: EncoderSpec) -> set[str]:
    """The parameters stored as int8: kernels, word embeddings and the MLM decoder.

    Position and token-type embeddings stay float32: they are small, and every token adds them.
    """
    names = {parameter.name for parameter in spec.parameters() if parameter.kind == KERNEL}
    names.add(spec.word_embeddings.weight)
    if isinstance(spec.head, MaskedLMHead):
        names.add(spec.head.decoder)
    return names


def kept_names(spec: EncoderSpec, beginnings: Collection[str]) -> set[str]:
    """The quantized parameters whose names begin so, part by part, with or without the family's prefix.

    `encoder.layer.1` is that layer, and not layer 11. Raises InputError for a beginning that none has.
    """
    kept: set[str] = set()
    faults = []
    for beginning in beginnings:
        found = {
            name
            for name in quantized_names(spec)
            if any(f"{form}.".startswith(f"{beginning}.") for form in (name, name.partition(".")[2]))
        }
        if not found:
            faults.append(f"{beginning}: no quantized parameter's name begins so")
        kept |= found
    if faults:
        raise InputError("--keep-fp32", faults)
    return kept


def quantize_in_chunks(
    weight: NDArray[np.float32],
    scales: list[NDArray[np.float32]],
    pool: ThreadPoolExecutor,
    largest: float = LARGEST,
) -> Iterator[NDArray[np.int8]]:
    """Quantize a [rows, inputs] matrix some rows at a time, appending their scales to `scales`."""
    step = max(1, _CHUNK_VALUES // weight.shape[1])
    chunks = (weight[start : start + step] for start in range(0, len(weight), step))
    for values, scale in pool.map(partial(quantize_rows, largest=largest), chunks):
        scales.append(scale)
        yield values


def quantize_rows(
    weight: NDArray[np.float32], largest: float = LARGEST
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values [rows, inputs] and float32 scales [rows]: round(w / scale), scale = absmax / largest of the row.

    Halves round to even, as in QuantizeLinear.
    """
    absmax = np.maximum(weight.max(axis=1), -weight.min(axis=1))
    scale = np.maximum(absmax, np.float32(TINY)) / np.float32(largest)
    scaled = weight / scale[:, None]
    return np.rint(scaled, out=scaled).astype(np.int8), scale


def scale_of(name: str) -> str:
    """Name of the scales [outputs] of an int8 weight."""
    return f"{name}.scale"
