"""TensorFlow comes without Keras and JAX, and gives Keras to whoever asks for it afterwards."""

import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")

pytestmark = pytest.mark.slow


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "module",
    ["yizhi.converters.lean_tensorflow", "yizhi.converters.to_tensorflow", "yizhi.runtimes.tensorflow_runtime"],
)
def test_neither_keras_nor_jax_is_imported_with_it(module):
    code = (
        f"import sys, {module}; print({{'keras', 'tf_keras', 'jax'}} & {{*sys.modules}}, 'tensorflow' in sys.modules)"
    )
    assert run(code) == "set() True"


def test_keras_still_loads_when_it_is_used():
    code = (
        "from yizhi.converters.lean_tensorflow import tf; from tensorflow.keras import layers; "
        "print(layers.Dense(2).units)"
    )
    assert run(code) == "2"
    assert run("from yizhi.converters.lean_tensorflow import tf; print(tf.keras.layers.Dense(2).units)") == "2"
