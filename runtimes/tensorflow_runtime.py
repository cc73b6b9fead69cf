"""TensorFlow artifacts, run through the SavedModel's own signatures."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.lean_tensorflow import tf
from yizhi.errors import InputError, NotRun
from yizhi.model.spec import LOGITS_AT, POSITIONS
from yizhi.reading.saved_model import check_operators
from yizhi.runtimes.base import Inputs, Runtime


class TensorFlowRuntime(Runtime):
    """Calls the smallest signature that has the requested outputs."""

    tiers: Mapping[str, Sequence[str]] = {"cpu": ("strict",), "cuda": ("strict", "tf32")}

    def _open(self) -> None:
        if self.device == "cuda" and not tf.config.list_physical_devices("GPU"):
            raise NotRun("`device` cuda", "TensorFlow finds no CUDA device")
        tf.config.experimental.enable_tensor_float_32_execution(self.math == "tf32")
        if self.threads:
            _set_threads(self.threads)
        check_operators(self.artifact.folder / "saved_model.pb")
        self._place = "/GPU:0" if self.device == "cuda" else "/CPU:0"
        with tf.device(self._place):
            self._model = tf.saved_model.load(str(self.artifact.folder))

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        found = self._call(self.signature_for(outputs), inputs.as_dict(np.int32))
        return {name: found[name].numpy() for name in outputs}

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        arrays = {**inputs.as_dict(np.int32), POSITIONS: positions.astype(np.int32)}
        return self._call(LOGITS_AT, arrays)["logits"].numpy()

    def _call(self, signature: str, arrays: Mapping[str, NDArray]) -> Mapping[str, tf.Tensor]:
        with tf.device(self._place):
            return self._model.signatures[signature](**{name: tf.constant(array) for name, array in arrays.items()})

    def settings(self) -> dict[str, str]:
        """TF32, and the device."""
        return {
            "tensor_float_32_execution": str(tf.config.experimental.tensor_float_32_execution_enabled()),
            "device": self._place,
        }

    def find_fallbacks(self, inputs: Inputs) -> list[str]:
        """Outputs that another device computed."""
        found = self._call("serving_default", inputs.as_dict(np.int32))
        kind = {"cuda": "GPU", "cpu": "CPU"}[self.device]
        return [f"{name}: on {x.device}" for name, x in found.items() if f":{kind}:" not in x.device]

    def close(self) -> None:
        """Free the model."""
        self._model = None


def _set_threads(count: int) -> None:
    """Raises InputError if TensorFlow already runs with another number. TensorFlow cannot change it then."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError:
        found = tf.config.threading.get_intra_op_parallelism_threads() or "its own choice"
        raise InputError(
            "`threads`", f"expected a number before TensorFlow starts in this process; it runs with {found}"
        ) from None
