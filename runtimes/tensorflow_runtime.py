"""TensorFlow artifacts, run through the SavedModel's own signatures."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from converters.errors import InputError
from converters.spec import HEAD, HEAD_INPUT
from runtimes.base import Inputs, Runtime


class TensorFlowRuntime(Runtime):
    """Calls the smallest signature that computes what is asked for, in strict float32."""

    def _open(self) -> None:
        if self.device == "cuda" and not tf.config.list_physical_devices("GPU"):
            raise InputError("--device cuda", "this TensorFlow sees no CUDA device")
        # TF32 rounds inputs to 10 bits of mantissa: never in strict mode.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        if self.threads:
            _set_threads(self.threads)
        self._place = "/GPU:0" if self.device == "cuda" else "/CPU:0"
        with tf.device(self._place):
            self._model = tf.saved_model.load(str(self.artifact.folder))

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        compute = self._model.signatures[self.signature_for(outputs)]
        with tf.device(self._place):
            tensors = {name: tf.constant(array) for name, array in inputs.as_dict(np.int32).items()}
            found = compute(**tensors)
        return {name: found[name].numpy() for name in outputs}

    def run_head(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The masked-language-model head alone: [N, H] to [N, V]."""
        with tf.device(self._place):
            return self._model.signatures[HEAD](**{HEAD_INPUT: tf.constant(states)})["logits"].numpy()

    def close(self) -> None:
        """Free the model."""
        self._model = None


def _set_threads(count: int) -> None:
    """Raises InputError where TensorFlow already runs with another number: it cannot be changed then."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError:
        found = tf.config.threading.get_intra_op_parallelism_threads() or "its own choice"
        raise InputError(
            "--threads", f"expected a number before TensorFlow starts in this process; it runs with {found}"
        ) from None
