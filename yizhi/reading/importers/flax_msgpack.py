"""`flax_model.msgpack`: what transformers' Flax classes and Yizhi save. Read without jax."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.model.layout import FLAX_ARRAY, FLAX_CHUNKED, FLAX_LEAVES
from yizhi.model.spec import KERNEL
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Place, need
from yizhi.reading.importers.opened import Opened, refuse_brightmart
from yizhi.reading.safetensors_file import SAFETENSORS_TYPES, widen


def open_msgpack(path: Path) -> Opened:
    """Open a tree of parameters. Memory holds all of them: msgpack has no index. Raises InputError."""
    need("msgpack", path)
    tree = _read_tree(path)
    tree = tree["params"] if tree.keys() == {"params"} and isinstance(tree["params"], dict) else tree
    faults: list[str] = []
    tensors = list(_walk(tree, "", faults))
    if faults:
        raise InputError(path, faults)
    refuse_brightmart(path, (tensor.name for tensor in tensors))
    return Opened("Flax .msgpack", [ForeignWeights(path, tensors, place_name)])


# NumPy has no bfloat16: its bits, apart from numbers that are uint16.
_BF16 = np.dtype([("bits", np.uint16)])


def place_name(tensor: ForeignTensor) -> Place | None:
    """`bert/encoder/layer/0/output/dense/kernel` -> `bert.encoder.layer.0.output.dense.weight`, transposed."""
    *modules, leaf = tensor.name.split("/")
    if leaf not in FLAX_LEAVES.values():
        return None
    return Place(
        ".".join([*modules, leaf if leaf in ("bias", "scaling") else "weight"]), transpose=leaf == FLAX_LEAVES[KERNEL]
    )


def _read_tree(path: Path) -> dict[str, Any]:
    import msgpack

    try:
        with open(path, "rb") as file:
            unpacker = msgpack.Unpacker(file, ext_hook=_read_array, object_hook=_join_chunks, max_buffer_size=0)
            tree = unpacker.unpack()
    except (msgpack.exceptions.UnpackException, TypeError, ValueError, RecursionError) as error:
        raise InputError(path, f"is not a Flax parameter tree, or is damaged: {type(error).__name__} {error}") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    if not isinstance(tree, dict):
        raise InputError(path, f"is not a Flax parameter tree: found {type(tree).__name__}")
    return tree


def _read_array(kind: int, data: bytes) -> NDArray[Any]:
    """An array from its extension: shape, dtype's name and bytes, packed again."""
    import msgpack

    if kind != FLAX_ARRAY:
        raise ValueError(f"expected arrays alone (extension {FLAX_ARRAY}); found extension {kind}")
    shape, dtype, values = msgpack.unpackb(data)
    return np.frombuffer(values, _BF16 if dtype == "bfloat16" else dtype).reshape(shape)


def _join_chunks(node: dict[str, Any]) -> Any:
    if FLAX_CHUNKED not in node:
        return node
    shape, chunks = node.get("shape"), node.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict) or not chunks:
        raise ValueError("an array kept in pieces lacks its shape or its pieces")
    return np.concatenate([np.ravel(chunks[str(number)]) for number in range(len(chunks))]).reshape(
        [shape[str(axis)] for axis in range(len(shape))]
    )


def _walk(tree: Mapping[str, Any], prefix: str, faults: list[str]) -> Iterator[ForeignTensor]:
    for key, node in tree.items():
        name = f"{prefix}{key}"
        if isinstance(node, Mapping):
            yield from _walk(node, f"{name}/", faults)
        elif isinstance(node, np.ndarray) and node.dtype == _BF16:
            yield ForeignTensor(name, "BF16", node.shape, partial(widen, node["bits"]))
        elif isinstance(node, np.ndarray):
            dtype = SAFETENSORS_TYPES.get(node.dtype, str(node.dtype))
            yield ForeignTensor(name, dtype, node.shape, partial(np.asarray, node))
        else:
            faults.append(f"{name}: expected an array; found {show(node)}")
