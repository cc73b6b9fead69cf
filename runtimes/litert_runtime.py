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
from yizhi.converters.onnx_files import INTEGERS
from yizhi.errors import NotRun
from yizhi.model.layout import LITERT_MODEL
from yizhi.model.spec import LOGITS_AT, POSITIONS
from yizhi.reading.litert_tensors import read_litert
from yizhi.runtimes.base import Inputs, Outputs, Runtime

# LiteRT's kernels: those that it takes by default where they fit, and its own.
_KERNELS = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
_MIDDLE = 128  # the uint8 that stands for 0


class LiteRTRuntime(Runtime):
    """One interpreter, of which a call at a time runs the smallest signature that computes what is asked for."""

    def _open(self) -> None:
        if self.device != "cpu":
            raise NotRun(f"`device` {self.device}", "LiteRT artifacts are run on a CPU alone")
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
        """Which kernels the interpreter took, once it has run: XNNPACK's come as a delegate."""
        token = np.zeros((1, 1), np.int32)
        self._run(Inputs.of(token), self.outputs[:1])
        operators = {operator["op_name"] for operator in self._interpreter._get_ops_details()}
        return {"kernels": "xnnpack" if "DELEGATE" in operators else "builtin"}

    def integer_sums(self, rows: NDArray[np.uint8]) -> Mapping[str, Outputs]:
        """By kernels, what each sums for uint8 rows [N, widest], each with a 0 and a 255: NAME.sums [N, outputs].

        Over a model made of the artifact's own int8 weights: in the artifact, it would take memory from everybody.
        """
        checked = set(self.artifact.description["quantization"]["checked"])
        stored = {place.name: place for place in read_litert(self.artifact.folder) if place.name in checked}
        weights = {
            name: Weight(INT8, place.shape, np.ones(place.shape[0], np.float32)) for name, place in stored.items()
        }
        buffers, model = Buffers(weights), io.BytesIO()
        graph = Int8Graph(buffers)
        build_integer_check(graph, {name: weight.shape[1] for name, weight in weights.items()})
        write_model(
            model, buffers, {INTEGERS: Signature(graph, tuple(graph.outputs))}, lambda name: stored[name].chunks()
        )
        found = {}
        for name, kernels in _KERNELS.items():
            interpreter = Interpreter(model_content=model.getvalue(), experimental_op_resolver_type=kernels)
            found[name] = interpreter.get_signature_runner(INTEGERS)(rows=rows.astype(np.float32) - _MIDDLE)
        return found

    def close(self) -> None:
        """Free the model."""
        del self._interpreter
