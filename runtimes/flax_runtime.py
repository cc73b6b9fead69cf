"""Flax artifacts, run by the native `linen.Module` under `jit`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from numpy.typing import NDArray

from converters.architectures import build_spec
from converters.errors import InputError
from converters.forwards.flax import FlaxEncoder
from converters.layout import FLAX_WEIGHTS, canonical_names
from converters.to_flax import ARRAY_TYPE, CHUNKED
from runtimes.base import Inputs, Runtime


class FlaxRuntime(Runtime):
    """Compiles once per set of outputs and per bucket of batch and length, then runs in strict float32.

    XLA compiles for exact shapes, which takes seconds each time. So inputs are padded, with the
    padding masked, to the next of 1, 2, 3, 4, 6, 8, 12, 16, 24, … in both axes, and results are cut
    back. At most a third of the work is padding, and a token's result does not depend on it.
    """

    def _open(self) -> None:
        if self.threads:
            _set_threads(self.threads)
        try:
            self._device = jax.devices(self.device)[0]
        except RuntimeError as error:
            raise InputError(f"--device {self.device}", f"this JAX sees no such device: {error}") from None
        tree = read_tree(self.artifact.folder / FLAX_WEIGHTS, self._device)
        self._spec = build_spec(self.config, set(canonical_names(tree)))
        self._variables = {"params": tree}
        self._apply = jax.jit(FlaxEncoder(self._spec).apply, static_argnames="outputs")

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        batch, length = inputs.input_ids.shape
        padding = ((0, bucket(batch) - batch), (0, min(bucket(length), self.config.max_position_embeddings) - length))
        arrays = {name: np.pad(array, padding) for name, array in inputs.as_dict(np.int32).items()}
        with jax.default_device(self._device):
            found = self._apply(self._variables, **arrays, outputs=outputs)
        return {name: self._cut(name, np.asarray(array), batch, length) for name, array in found.items()}

    def _cut(self, output: str, array: NDArray, batch: int, length: int) -> NDArray:
        sizes = {"batch": batch, "length": length}
        return array[tuple(slice(sizes.get(axis)) for axis in self._spec.output_axes(output))]

    def close(self) -> None:
        """Free the weights."""
        self._variables.clear()


_threads: list[int] = []  # what this process asked of JAX, at most once


def _set_threads(count: int) -> None:
    """Raises InputError after another number was asked for: JAX reads it once, when it starts."""
    if _threads and _threads != [count]:
        raise InputError("--threads", f"expected {_threads[0]}, with which JAX runs in this process; found {count}")
    _threads[:] = [count]
    os.environ["PJRT_NPROC"] = str(count)


def bucket(size: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, …: every power of two, and the middle to the one after."""
    power = 1 << (size - 1).bit_length()
    return power // 4 * 3 if size <= power // 4 * 3 else power


def read_tree(path: Path, device: jax.Device) -> dict[str, Any]:
    """Read a `flax_model.msgpack`, putting each array on the device as soon as it is read.

    `flax.serialization.from_bytes` would hold the file and the arrays at the same time.
    """

    def read_array(kind: int, data: bytes) -> jax.Array:
        if kind != ARRAY_TYPE:
            raise InputError(path, f"expected arrays alone (msgpack extension {ARRAY_TYPE}); found extension {kind}")
        shape, dtype, values = msgpack.unpackb(data)
        return jax.device_put(np.frombuffer(values, dtype).reshape(shape), device)

    def join_chunks(node: dict[str, Any]) -> Any:
        if CHUNKED not in node:
            return node
        return jnp.concatenate(list(node["chunks"].values())).reshape(tuple(node["shape"].values()))

    with open(path, "rb") as file:
        try:
            tree = msgpack.Unpacker(file, ext_hook=read_array, object_hook=join_chunks, max_buffer_size=0).unpack()
        except (msgpack.exceptions.UnpackException, TypeError, ValueError) as error:
            raise InputError(path, f"is not a Flax parameter tree: {type(error).__name__} {error}") from None
    if not isinstance(tree, dict):
        raise InputError(path, f"is not a Flax parameter tree: found {type(tree).__name__}")
    return tree
