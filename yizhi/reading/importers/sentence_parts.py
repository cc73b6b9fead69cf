"""Pickles beside a retrieval model's weights: BGE-M3's heads, and Dense modules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from yizhi.model.architectures import MULTI_VECTOR, SPARSE
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Place
from yizhi.reading.importers.torch_bin import read_bin
from yizhi.reading.safetensors_file import write_safetensors
from yizhi.reading.sentence_dense import PICKLE
from yizhi.reading.weight_files import WEIGHTS
from yizhi.release.artifact import ArtifactWriter


def open_token_heads(folder: Path) -> list[ForeignWeights]:
    """BGE-M3's heads under canonical names; empty without their files. Raises InputError."""
    found = []
    for module in (SPARSE, MULTI_VECTOR):
        path = folder / f"{module}.pt"
        if path.exists():

            def place(tensor: ForeignTensor, module: str = module) -> Place | None:
                return Place(f"{module}.{tensor.name}") if tensor.name in ("weight", "bias") else None

            found.append(ForeignWeights(path, read_bin(path), place))
    return found


def say_width(raw: Mapping[str, Any], heads: list[ForeignWeights]) -> dict[str, Any]:
    """The configuration with `colbert_dim`, where token vectors are not as wide as hidden states."""
    name = f"{MULTI_VECTOR}.weight"
    width = next((head.entries[name].shape[0] for head in heads if name in head.entries), raw.get("hidden_size"))
    return {**raw, **({"colbert_dim": width} if width != raw.get("hidden_size") else {})}


def write_dense(source: Path, place: str, writer: ArtifactWriter) -> None:
    """Write the weights of a Dense module that has them as a pickle alone. Raises InputError."""
    arrays = {tensor.name: tensor.read().astype(np.float32) for tensor in read_bin(source / place / PICKLE)}
    with writer.open(f"{place}/{WEIGHTS}") as file:
        entries = {name: ("F32", array.shape) for name, array in arrays.items()}
        write_safetensors(file, entries, (np.ascontiguousarray(array).data for array in arrays.values()))
