"""Flax artifacts, run by the native forward pass under `jit`."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from numpy.typing import NDArray

from yizhi.choices import MATH
from yizhi.converters.forwards import passes
from yizhi.converters.forwards.flax import Pass, embed, encode, encoder_layer, heads
from yizhi.errors import InputError, NotRun
from yizhi.model.layout import FLAX_ARRAY, FLAX_CHUNKED, FLAX_WEIGHTS, canonical_parameters
from yizhi.model.spec import TEXT_INPUTS, EncoderSpec, Layer, parameters_of, without_names
from yizhi.runtimes.base import TAPS, Inputs, Outputs, Runtime

# Below this length there is less to save than a compilation costs.
SHORTEST = 16
_TYPES = {"bf16": jnp.bfloat16, "fp16": jnp.float16}


class FlaxRuntime(Runtime):
    """Compiles one layer per bucket of batch and length, and runs every layer with it.

    XLA compiles for exact shapes. A whole encoder takes seconds each time, and its layers mostly differ only in their
    parameters. Layers with other differences are compiled apart.
    Inputs are padded to the next bucket of both axes, with the padding masked, and results are cut back. A token's
    result does not depend on padding.
    """

    tiers: Mapping[str, Sequence[str]] = {"cpu": ("strict", "bf16", "fp16"), "cuda": MATH}

    def _open(self) -> None:
        if self.threads:
            _set_threads(self.threads)
        try:
            self._device = jax.devices(self.device)[0]
        except RuntimeError as error:
            raise NotRun(f"`device` {self.device}", f"JAX finds no such device: {error}") from None
        tree = read_tree(self.artifact.folder / FLAX_WEIGHTS, self._device)
        self._type = _TYPES.get(self.math, jnp.float32)
        self._parameters = {name: array.astype(self._type) for name, array in canonical_parameters(tree).items()}
        self._spec = spec = self.build_spec(self._parameters.keys())
        # To one thread, products made for several are a seventh slower.
        alone = self.device == "cpu" and self.threads == 1
        jit = partial(jax.jit, compiler_options={"xla_cpu_multi_thread_eigen": False} if alone else None)
        self._embed = jit(lambda p, given: embed(Pass(p, spec), given))
        self._step = jit(partial(_run_layer, spec), static_argnames=("layer", "of_image"))
        layers = (*spec.layers, *(spec.of_image.layers if spec.image else ()))
        self._nameless = {layer: without_names(layer) for layer in layers}
        self._heads = jit(lambda p, *given: heads(Pass(p, spec), *given), static_argnums=5)

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        batch, length = inputs.input_ids.shape
        with self._arithmetic():
            found = self._compute(self._pad(inputs), outputs)
        sizes = {"batch": batch, "length": length}
        if inputs.image_mask is not None:
            sizes["regions"] = inputs.image_mask.shape[1]
        return {name: self._cut(name, np.asarray(found[name], np.float32), sizes) for name in outputs}

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        count = len(positions)
        positions = np.pad(positions.astype(np.int32), ((0, bucket(count) - count), (0, 0)))
        with self._arithmetic():
            found = self._compute(self._pad(inputs), ("logits",), positions)
        return np.asarray(found["logits"], np.float32)[:count]

    def _pad(self, inputs: Inputs) -> dict[str, NDArray]:
        """The arrays, each [B, T] or [B, R, …], up to the next bucket of both axes."""
        batch, length = inputs.input_ids.shape
        to_length = min(bucket(max(length, SHORTEST)), self.config.longest) - length

        def pad(name: str, array: NDArray) -> NDArray:
            more = to_length if name in TEXT_INPUTS else bucket(array.shape[1]) - array.shape[1]
            others = ((0, 0),) * (array.ndim - 2)
            return np.pad(array, ((0, bucket(batch) - batch), (0, more), *others))

        return {name: pad(name, array) for name, array in inputs.as_dict(np.int32).items()}

    def _compute(
        self, given: dict[str, NDArray], outputs: tuple[str, ...], positions: NDArray | None = None
    ) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        at = None if positions is None else jnp.asarray(positions)
        p = Pass(self._parameters, self._spec, passes.keep(outputs, found), positions=at)
        x, y = self._embed(self._parameters, given)
        masks = given["attention_mask"], given.get("image_mask")
        x, y = encode(p, x, y, *masks, outputs, self._run_compiled)
        after = tuple(name for name in outputs if name not in found)
        return found | self._heads(self._parameters, x, y, *masks, after)

    def look_inside(self, inputs: Inputs, layer: int) -> Outputs:
        """All of TAPS, without compiling."""
        names = {f"layers.{layer}.{tap}": tap for tap in TAPS}
        found: dict[str, jax.Array] = {}
        p = Pass(self._parameters, self._spec, passes.keep(names, found))
        with self._arithmetic():
            given = {name: jnp.asarray(array) for name, array in inputs.as_dict(np.int32).items()}
            encode(p, *embed(p, given), given["attention_mask"], given.get("image_mask"), names)
        return {tap: np.asarray(found[name], np.float32) for name, tap in names.items()}

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """On the device, with products as `math` says whatever the process has set."""
        precision = "tensorfloat32" if self.math == "tf32" else None  # None: each product asks for HIGHEST
        with jax.default_device(self._device), jax.default_matmul_precision(precision):
            yield

    def settings(self) -> dict[str, str]:
        """The precision that a layer's products ask XLA for, read from the lowered program, and the weights' type."""
        hidden = jax.ShapeDtypeStruct((1, SHORTEST, self.config.hidden_size), self._type)
        mask = jax.ShapeDtypeStruct((1, 1, 1, SHORTEST), self._type)
        first = self._spec.layers[0]
        parameters = {parameter.name: self._parameters[parameter.name] for parameter in parameters_of(first)}
        with self._arithmetic():
            program = self._step.lower(parameters, hidden, mask, None, layer=first).as_text()
        asked = re.findall(r"dot_general[^\n]*precision = \[(\w+), (\w+)\]", program)
        return {
            "weights": str(jnp.dtype(self._type)),
            "product precision": ", ".join(sorted({name for pair in asked for name in pair})) or "not found",
            "device": f"{self._device.platform} {self._device.device_kind}",
        }

    def find_fallbacks(self, inputs: Inputs) -> list[str]:
        """Parameters on another device: XLA computes where they are, or not at all."""
        return [
            f"{name}: on {place}"
            for name, array in self._parameters.items()
            for place in array.devices()
            if place != self._device
        ]

    def _run_compiled(self, p: Pass, layer: Layer, x: jax.Array) -> jax.Array:
        """`encoder_layer`, compiled once for all layers that differ in nothing but their parameters' names."""
        nameless = self._nameless[layer]
        names = zip(parameters_of(nameless), parameters_of(layer), strict=True)
        parameters = {place.name: p[this.name] for place, this in names}
        of_image = p.spec is not self._spec
        return self._step(parameters, x, p.mask, p.positions, layer=nameless, of_image=of_image)

    def _cut(self, output: str, array: NDArray, sizes: Mapping[str, int]) -> NDArray:
        at: tuple[slice, ...] = tuple(slice(sizes.get(str(axis))) for axis in self._spec.output_axes(output))
        return array[at]

    def close(self) -> None:
        """Free the weights."""
        self._parameters.clear()


def _run_layer(
    spec: EncoderSpec,
    parameters: Mapping[str, jax.Array],
    x: jax.Array,
    mask: jax.Array,
    positions: jax.Array | None,
    layer: Layer,
    of_image: bool = False,
) -> jax.Array:
    own = spec.of_image if of_image else spec
    return encoder_layer(Pass(parameters, own, mask=mask, positions=positions), layer, x)


_threads: list[int] = []  # what this process asked of JAX, at most once


def _set_threads(count: int) -> None:
    """Raises InputError if JAX already runs with another number: JAX reads the number once, when it starts."""
    if _threads and _threads != [count]:
        raise InputError(
            "`threads`", f"expected {_threads[0]}, because JAX already runs with it in this process; found {count}"
        )
    _threads[:] = [count]
    os.environ["PJRT_NPROC"] = str(count)


def bucket(size: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, …: every power of two, and the middle to the next one."""
    power = 1 << (size - 1).bit_length()
    return power // 4 * 3 if size <= power // 4 * 3 else power


def read_tree(path: Path, device: jax.Device) -> dict[str, Any]:
    """Read a `flax_model.msgpack`, and put each array on the device as soon as it is read.

    `flax.serialization.from_bytes` would hold the file and the arrays at the same time. Raises InputError.
    """

    def read_array(kind: int, data: bytes) -> jax.Array:
        if kind != FLAX_ARRAY:
            raise InputError(path, f"expected arrays alone (msgpack extension {FLAX_ARRAY}); found extension {kind}")
        shape, dtype, values = msgpack.unpackb(data)
        return jax.device_put(np.frombuffer(values, dtype).reshape(shape), device)

    def join_chunks(node: dict[str, Any]) -> Any:
        if FLAX_CHUNKED not in node:
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
