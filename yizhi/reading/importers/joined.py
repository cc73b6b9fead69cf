"""For adapters that are put into a base: the adapter's tensors, and the base's without those that it replaces."""

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers.foreign import ForeignTensor
from yizhi.reading.importers.torch_bin import read_bin
from yizhi.reading.safetensors_file import SafetensorsFile
from yizhi.reading.weight_files import TensorFile


def read_tensors(folder: Path, names: Sequence[str]) -> list[ForeignTensor]:
    """The tensors of the first of these files that is there. Raises InputError."""
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise InputError(folder / names[-1], f"the file is missing, and so is {names[0]}")
    if path.suffix == ".bin":
        return read_bin(path)
    file = SafetensorsFile(path)
    return [
        ForeignTensor(entry.name, entry.dtype, entry.shape, partial(file.array, entry.name))
        for entry in file.entries.values()
    ]


def without_parts(
    base: Checkpoint, files: Sequence[TensorFile], replaced: Collection[str], keep_head: bool
) -> list[TensorFile]:
    """The base's files without the tensors, or modules, that are replaced, and perhaps without its head."""
    spec = base.spec if keep_head else replace(base.spec, head=None)
    kept = {
        base.source(part.name)
        for part in spec.parameters()
        if part.name not in replaced and part.name.rpartition(".")[0] not in replaced
    }
    parts = []
    for file in files:
        part = copy(file)
        vars(part)["entries"] = {name: entry for name, entry in file.entries.items() if (file, name) in kept}
        parts.append(part)
    return parts
