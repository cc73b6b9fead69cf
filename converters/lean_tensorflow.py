"""TensorFlow without its imports of Keras and JAX: `from yizhi.converters.lean_tensorflow import tf`.

Importing TensorFlow also imports Keras, which brings scikit-learn and pandas where they are installed, and JAX: more
than half of the time, and none of it is used here. TensorFlow makes do without them, and `tf.keras` loads when used.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _PutOff(MetaPathFinder, Loader):
    """Finds these modules, since TensorFlow asks where they are, and does not load them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self._names else None
        if spec:
            spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"{module.__name__}: not now")


@contextmanager
def _put_off(*names: str) -> Iterator[None]:
    finder = _PutOff(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


with _put_off("keras", "tf_keras", "jax"):
    import tensorflow as tf

__all__ = ["tf"]
