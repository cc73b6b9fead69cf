"""Which files of a checkpoint folder hold its weights: one file, or shards and the index that names them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from yizhi.errors import InputError, collect_faults, show
from yizhi.reading.safetensors_file import Entry, SafetensorsFile
from yizhi.storage.json_files import read_json_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# transformers' classes whose head does not read the pooler have none: the PyTorch artifact keeps it in its own file.
POOLER = "pooler.safetensors"
# Nor do they have BGE-M3's heads over tokens.
TOKEN_HEADS = "token_heads.safetensors"


class TensorFile(Protocol):
    """A source of a checkpoint's tensors: a SafetensorsFile, or an importer's view of another format."""

    path: Path

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor by its stored name."""

    def array(self, name: str) -> NDArray[Any]:
        """The tensor in its stored dtype; BF16 as float32."""

    def stored(self, name: str) -> NDArray[Any]:
        """The tensor as it is stored; of a SafetensorsFile without a copy, BF16 as its bits, which are uint16."""

    def chunks(self, name: str) -> Iterator[bytes | memoryview]:
        """The tensor's stored bytes."""

    def release(self, name: str) -> None:
        """Free the memory behind `array(name)`."""

    def close(self) -> object:
        """Close the file."""


def open_weights(path: Path, faults: list[str]) -> list[SafetensorsFile]:
    """Open the weights of a folder, or the one named file; the caller closes them. Adds faults to `faults`."""
    if path.suffix == ".safetensors":
        return _open_all([path], faults)
    beside = [path / name for name in (POOLER, TOKEN_HEADS) if (path / name).exists()]
    if (path / WEIGHTS).exists():
        return _open_all([path / WEIGHTS, *beside], faults)
    if (path / INDEX).exists():
        return _open_shards(path, faults) + _open_all(beside, faults)
    if (path / "pytorch_model.bin").exists():
        faults.append(f"has pytorch_model.bin but no {WEIGHTS}; convert it with `yizhi import`")
    else:
        faults.append(f"has neither {WEIGHTS} nor {INDEX}; `yizhi import` converts other projects' files")
    return []


def _open_all(paths: list[Path], faults: list[str]) -> list[SafetensorsFile]:
    files = [collect_faults(faults, partial(SafetensorsFile, path)) for path in paths]
    return [file for file in files if file]


def written_by(files: Sequence[SafetensorsFile]) -> str:
    """The framework whose names and orientation the tensors have: `pt`, `tf` or `flax`."""
    return next((file.metadata["format"] for file in files if file.metadata.get("format") in ("tf", "flax")), "pt")


def _open_shards(folder: Path, faults: list[str]) -> list[SafetensorsFile]:
    weight_map = collect_faults(faults, lambda: _read_index(folder))
    if weight_map is None:
        return []
    shards = sorted(set(weight_map.values()))
    files = _open_all([folder / name for name in shards], faults)
    if len(files) == len(shards):
        faults += [f"{INDEX}: {fault}" for fault in _find_lies(weight_map, files)]
    return files


def _read_index(folder: Path) -> dict[str, str]:
    """Tensor name -> shard name. Raises InputError unless every shard is there."""
    weight_map = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(folder / INDEX, "weight_map: expected an object of tensor name to file name")
    faults = [
        f"weight_map: {tensor}: expected a file name; found {show(name)}"
        for tensor, name in weight_map.items()
        if not isinstance(name, str)
    ]
    for name in sorted({name for name in weight_map.values() if isinstance(name, str)}):
        if Path(name).name != name or not name.endswith(".safetensors"):
            faults.append(f"weight_map: {show(name)} is not the name of a .safetensors file in this folder")
        elif not _is_file(folder / name):
            faults.append(f"{name}: the shard is missing")
    if faults:
        raise InputError(folder / INDEX, faults)
    return weight_map


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system allows
        return False


def _find_lies(weight_map: dict[str, str], files: list[SafetensorsFile]) -> list[str]:
    """One line per tensor that is not in exactly the shard that the index names."""
    found: dict[str, list[str]] = {}
    for file in files:
        for tensor in file.entries:
            found.setdefault(tensor, []).append(file.path.name)
    faults = []
    for tensor in sorted(weight_map.keys() | found.keys()):
        said, there = weight_map.get(tensor, "nothing"), " and ".join(found.get(tensor, ["no shard"]))
        # A tied or buffered tensor may be listed and not stored: if it is needed, the checkpoint will say so.
        if said != there and tensor in found:
            faults.append(f"{tensor}: the index says {said}; found in {there}")
    return faults
