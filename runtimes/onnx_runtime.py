"""ONNX artifacts, fp32 and int8, run by ONNX Runtime. Needs no onnx."""

import threading
from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from converters.errors import InputError
from converters.onnx_files import graph_file
from converters.spec import LOGITS_AT, POSITIONS
from runtimes.base import Inputs, Outputs, Runtime

_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    # TF32 rounds inputs to 10 bits of mantissa: never in strict mode.
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"],
}


class OnnxRuntime(Runtime):
    """One session per signature, opened when it is first asked for.

    ONNX Runtime computes every output of a graph, whichever are asked for, so each signature is a
    graph of its own. Sessions share the pages of the weight file, but each keeps its own kernels in
    the order its matrix products read them: without that, short inputs take 30 % longer.
    """

    def _open(self) -> None:
        if self.device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise InputError("--device cuda", "this ONNX Runtime has no CUDA provider")
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._opening = threading.Lock()

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        session = self._session(self.signature_for(outputs))
        return dict(zip(outputs, session.run(outputs, inputs.as_dict()), strict=True))

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._session(LOGITS_AT).run(["logits"], {**inputs.as_dict(), POSITIONS: positions})[0]

    def look_inside(self, inputs: Inputs, layer: int) -> Outputs:
        """TAPS by the names of the graph's nodes, where onnx is installed to expose them."""
        from runtimes.onnx_taps import expose

        exposed = expose(self.artifact.folder, self.config, layer)
        if exposed is None:
            return {}
        graph, names = exposed
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.artifact.folder)
        )
        session = onnxruntime.InferenceSession(graph, options, providers=_PROVIDERS[self.device])
        rows = session.run(list(names.values()), inputs.as_dict())  # [B·T, width] each
        return {tap: array.reshape(*inputs.input_ids.shape, -1) for tap, array in zip(names, rows, strict=True)}

    def _session(self, signature: str) -> onnxruntime.InferenceSession:
        with self._opening:
            if signature not in self._sessions:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = self.threads or 0  # 0: one per core
                self._sessions[signature] = onnxruntime.InferenceSession(
                    self.artifact.folder / graph_file(signature), options, providers=_PROVIDERS[self.device]
                )
            return self._sessions[signature]

    def forget(self, signature: str) -> None:
        """Close the signature's session: its kernels take as much memory as the weights."""
        with self._opening:
            self._sessions.pop(signature, None)

    def close(self) -> None:
        """Let go of every session; one that is running ends first."""
        self._sessions.clear()
