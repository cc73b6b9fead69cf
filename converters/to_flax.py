"""Write the `flax_model.msgpack` that `flax.serialization` and transformers' Flax classes load.

Needs neither jax nor flax: the tree is streamed out, so memory holds one tensor at a time.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgpack

from yizhi.model.layout import FLAX_ARRAY, FLAX_CHUNKED, FLAX_TYPES, FLAX_WEIGHTS, flax_shape, flax_tree, transposes
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.safetensors_file import ITEM_SIZES
from yizhi.release.artifact import ArtifactWriter

# From flax/serialization.py: the size in bytes above which an array becomes a map of flat pieces, each well under
# msgpack's limit for one object.
MAX_CHUNK_BYTES = 2**30

Pieces = Iterator[bytes | memoryview]


def convert(checkpoint: Checkpoint, writer: ArtifactWriter, keep_bf16: bool = False) -> None:
    """Write every parameter as float32 into the tree of `layout.flax_path`, kernels as [inputs, outputs].

    A tied decoder is left out, as `FlaxBertForMaskedLM` does: it is the embedding table.
    keep_bf16: the checkpoint's bfloat16 tensors stay bfloat16.
    """
    with writer.open(FLAX_WEIGHTS) as file:
        for piece in _pack_tree(checkpoint, flax_tree(checkpoint.parameters()), keep_bf16):
            file.write(piece)


def _pack_tree(checkpoint: Checkpoint, tree: Mapping[str, Any], keep_bf16: bool) -> Pieces:
    yield msgpack.Packer().pack_map_header(len(tree))
    for name, branch in tree.items():
        yield msgpack.packb(name)
        if isinstance(branch, Mapping):
            yield from _pack_tree(checkpoint, branch, keep_bf16)
            continue
        dtype = checkpoint.dtype_of(branch.name, keep_bf16)
        values = checkpoint.chunks(branch, transposes(branch), dtype)
        if ITEM_SIZES[dtype] * math.prod(branch.shape) > MAX_CHUNK_BYTES:
            yield from _pack_chunked_array(flax_shape(branch), dtype, values)
        else:
            yield _array_header(flax_shape(branch), dtype)
            yield from values


def _pack_chunked_array(shape: tuple[int, ...], dtype: str, values: Iterable[bytes | memoryview]) -> Pieces:
    count, step = math.prod(shape), MAX_CHUNK_BYTES // ITEM_SIZES[dtype]
    starts = range(0, count, step)
    yield msgpack.Packer().pack_map_header(3)
    yield msgpack.packb(FLAX_CHUNKED) + msgpack.packb(True)
    yield msgpack.packb("shape") + msgpack.packb({str(axis): n for axis, n in enumerate(shape)})
    yield msgpack.packb("chunks") + msgpack.Packer().pack_map_header(len(starts))
    pieces, piece = iter(values), memoryview(b"")
    for number, start in enumerate(starts):
        size = min(step, count - start)
        yield msgpack.packb(str(number)) + _array_header((size,), dtype)
        left = size * ITEM_SIZES[dtype]
        while left:
            piece = piece or memoryview(next(pieces))
            yield piece[:left]
            left, piece = left - len(piece[:left]), piece[left:]


def _array_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """What precedes an array's bytes: the extension's header, then (shape, dtype name, bytes)."""
    size = ITEM_SIZES[dtype] * math.prod(shape)
    inner: bytes = msgpack.Packer().pack_array_header(3) + msgpack.packb(shape) + msgpack.packb(FLAX_TYPES[dtype])
    inner += _length(size, {1: b"\xc4", 2: b"\xc5", 4: b"\xc6"})
    return _length(len(inner) + size, {1: b"\xc7", 2: b"\xc8", 4: b"\xc9"}) + bytes([FLAX_ARRAY]) + inner


def _length(size: int, markers: dict[int, bytes]) -> bytes:
    """A length in the fewest of 1, 2 or 4 bytes, after its marker (msgpack's spec.md, `bin` and `ext`)."""
    width = 1 if size < 2**8 else 2 if size < 2**16 else 4
    return markers[width] + struct.pack({1: ">B", 2: ">H", 4: ">I"}[width], size)
