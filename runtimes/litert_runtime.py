"""LiteRT artifacts, fp32 and int8, run by LiteRT's interpreter with its own kernels for the processor (XNNPACK)."""

import threading
from collections.abc import Mapping

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from yizhi.errors import NotRun
from yizhi.model.layout import LITERT_MODEL
from yizhi.model.spec import LOGITS_AT, POSITIONS
from yizhi.runtimes.base import Inputs, Runtime


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

    def close(self) -> None:
        """Free the model."""
        del self._interpreter
