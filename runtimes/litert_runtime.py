"""LiteRT artifacts, fp32 and int8, run by LiteRT's interpreter with its own kernels for the processor (XNNPACK)."""

import io
import threading
from collections.abc import Mapping

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from yizhi.converters.litert_file import write_model
from yizhi.converters.litert_graph import INT8, Buffers, Signature, Weight
from yizhi.converters.litert_int8_graph import Int8Graph, build_integer_check
from yizhi.converters.quantize import INTEGERS
from yizhi.errors import NotRun
from yizhi.model.layout import LITERT_MODEL
from yizhi.model.spec import LOGITS_AT, POSITIONS
from yizhi.reading.litert_tensors import read_litert
from yizhi.runtimes.base import Inputs, Outputs, Runtime

# LiteRT's kernels: those that it takes by default where they fit, and its own.
_KERNELS = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
_MIDDLE = 128  # the uint8 that stands for 0


class LiteRTRuntime(Runtime):
    """One interpreter, one call at a time. A call runs the smallest signature that has the requested outputs."""

    def _open(self) -> None:
        if self.device != "cpu":
            raise NotRun(f"`device` {self.device}", "LiteRT artifacts run only on a CPU")
        read_litert(self.artifact.folder)  # LiteRT would read a tensor that lies beyond the end of the file, and crash
        self._interpreter = Interpreter(str(self.artifact.folder / LITERT_MODEL), num_threads=self.threads)
        self._running = threading.Lock()

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        return self._call(self.signature_for(outputs), inputs.as_dict(np.int32))

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._call(LOGITS_AT, {**inputs.as_dict(np.int32), POSITIONS: positions.astype(np.int32)})["logits"]

    def _call(self, signature: str, arrays: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        with self._running:
            return self._interpreter.get_signature_runner(signature)(**arrays)

    def settings(self) -> dict[str, str]:
        """The kernels that the interpreter chose in its first run. XNNPACK's kernels appear as a delegate."""
        token = np.zeros((1, 1), np.int32)
        self._run(Inputs.of(token).complete(self.config), self.outputs[:1])
        operators = {operator["op_name"] for operator in self._interpreter._get_ops_details()}
        return {"kernels": "xnnpack" if "DELEGATE" in operators else "builtin"}

    def integer_sums(self, rows: NDArray[np.uint8]) -> Mapping[str, Outputs]:
        """By kernels, what each sums for uint8 rows [N, widest]: NAME.sums [N, outputs].

        Over a model made for it of the artifact's int8 weights: in the artifact, it would take memory from everybody.
        Two columns come before the others, the smallest and the largest that a row may have, so that its scale is 1,
        and are multiplied by 0.
        """
        checked = set(self.artifact.description["quantization"]["checked"])
        stored = {place.name: place for place in read_litert(self.artifact.folder) if place.name in checked}
        kernels = {name: np.pad(place.array(), ((0, 0), (2, 0))) for name, place in stored.items()}
        buffers = Buffers({name: Weight(INT8, kernel.shape, _ones(kernel)) for name, kernel in kernels.items()})
        graph, model = Int8Graph(buffers), io.BytesIO()
        build_integer_check(graph, {name: kernel.shape[1] for name, kernel in kernels.items()})
        signature = Signature(graph, tuple(graph.outputs))
        write_model(model, buffers, {INTEGERS: signature}, lambda name: [kernels[name].tobytes()])
        values = np.pad(rows.astype(np.float32) - _MIDDLE, ((0, 0), (2, 0)))
        values[:, :2] = np.iinfo(np.int8).min, np.iinfo(np.int8).max
        return {
            name: Interpreter(
                model_content=model.getvalue(), experimental_op_resolver_type=resolver
            ).get_signature_runner(INTEGERS)(rows=values)
            for name, resolver in _KERNELS.items()
        }

    def close(self) -> None:
        """Free the model; a call that is running ends first."""
        with self._running:
            self._interpreter = None


def _ones(kernel: NDArray[np.int8]) -> NDArray[np.float32]:
    """A scale of 1 for each output of a kernel [outputs, inputs]."""
    return np.ones(len(kernel), np.float32)
