"""The files of an ONNX artifact: a graph per signature over one file of weights. Needs no onnx."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

WEIGHT_FILE = "model.onnx.data"
OLDEST_RUNTIME = (1, 17)  # the first ONNX Runtime that loads the graphs: their operators are opset 20's

# ONNX Runtime maps tensors into memory, and a mapping begins at a page. Small ones need not: padding
# every bias to a page would cost a small int8 model a tenth of its size.
_PAGE = 4096
_CACHE_LINE = 64


# How an int8 graph multiplies. Every processor adds products of two unsigned bytes exactly. Unsigned by signed
# is what VNNI is for, and what saturates without it; so the plain names are those of the first.
U8U8, U8S8 = "u8u8", "u8s8"
# Beside the signatures, an int8 artifact has a graph of its kernels' integer sums, to be held to exact arithmetic.
INTEGERS = "integers"


def graph_file(signature: str, products: str = U8U8) -> str:
    """The file that computes this group of outputs. `model.onnx` is what optimum looks for."""
    name = "model" if signature == "serving_default" else signature
    return f"{name}_{U8S8}.onnx" if products == U8S8 else f"{name}.onnx"


def outliers_of(name: str) -> str:
    """Name of the float32 columns [count, outputs] of the outlier channels of an int8 weight."""
    return f"{name}.outliers"


def scale_of(name: str) -> str:
    """Name of the scales [outputs] of an int8 weight."""
    return f"{name}.scale"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's data type (a number of `onnx.TensorProto`, or OpenVINO's name), shape, and place in the file."""

    dtype: Any
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class WeightFile:
    """Streams tensors into the weight file; `stored` says where each one went."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.stored: dict[str, StoredTensor] = {}

    def add(self, name: str, dtype: Any, shape: tuple[int, ...], chunks: Iterable[bytes | memoryview]) -> None:
        """Append a tensor's row-major bytes. One that fills a page begins at a page."""
        chunks = iter(chunks)
        first = memoryview(next(chunks))
        alignment = _PAGE if first.nbytes >= _PAGE else _CACHE_LINE
        offset = -(-self._file.tell() // alignment) * alignment
        self._file.write(bytes(offset - self._file.tell()))
        self._file.write(first)
        for chunk in chunks:
            self._file.write(chunk)
        self.stored[name] = StoredTensor(dtype, shape, offset, self._file.tell() - offset)
