"""An artifact folder: written whole or not at all, and described by its own `artifact.json`."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from converters.checkpoint import Checkpoint, sha256_of_file
from converters.config import read_json_object
from converters.errors import InputError
from converters.tokenizer_files import tokenizer_files

DESCRIPTION = "artifact.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and what `artifact.json` says of it."""

    folder: Path
    description: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> "Artifact":
        """Read `artifact.json`. Raises InputError where it is missing or not of this schema."""
        folder = Path(folder)
        description = read_json_object(folder / DESCRIPTION)
        faults = []
        if description.get("schema_version") != SCHEMA_VERSION:
            faults.append(f"schema_version: expected {SCHEMA_VERSION}; found {description.get('schema_version')!r}")
        for key, kind in {"target": str, "precision": str, "task": str, "signatures": dict, "files": dict}.items():
            if not isinstance(description.get(key), kind):
                faults.append(f"{key}: expected {kind.__name__}; found {description.get(key)!r}")
        if faults:
            raise InputError(folder / DESCRIPTION, faults)
        return cls(folder, description)

    @property
    def target(self) -> str:
        """Name of the target this artifact was exported for."""
        return self.description["target"]

    @property
    def signatures(self) -> dict[str, list[str]]:
        """Named groups of outputs."""
        return self.description["signatures"]

    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry["size"] for entry in self.description["files"].values())

    def find_altered_files(self) -> list[str]:
        """One line per file that is missing, extra, linked or not what was written."""
        expected = self.description["files"]
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if not path.is_dir()}
        found.pop(DESCRIPTION, None)
        faults = [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
        faults += [f"{name}: not part of the artifact" for name in sorted(found.keys() - expected.keys())]
        common = sorted(expected.keys() & found.keys())
        faults += [f"{name}: is a symbolic link" for name in common if found[name].is_symlink()]
        with ThreadPoolExecutor() as pool:
            digests = dict(zip(common, pool.map(lambda name: sha256_of_file(found[name]), common), strict=True))
        for name in common:
            if digests[name] != expected[name]["sha256"]:
                faults.append(f"{name}: expected sha256 {expected[name]['sha256']}; found {digests[name]}")
        return faults


class ArtifactWriter:
    """Collects an artifact's files in a temporary folder, hashing them as they are written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._digests: dict[str, str] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file for writing; its sha256 is taken on the way."""
        with open(self.folder / name, "xb") as file:
            hashing = _HashingFile(file)
            yield hashing  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        self._digests[name] = hashing.hexdigest()

    def write(self, name: str, data: bytes | str) -> None:
        """Write a whole small file."""
        with self.open(name) as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def write_json(self, name: str, value: object) -> None:
        """Write JSON, in the one form that makes equal values equal bytes."""
        self.write(name, to_json(value))

    def write_config_and_tokenizer(self, checkpoint: Checkpoint) -> None:
        """`config.json` as transformers reads it, `vocab.txt`, `tokenizer.json` and its config."""
        self.write_json("config.json", checkpoint.published_config())
        for name, data in tokenizer_files(checkpoint).items():
            self.write(name, data)

    def describe(self, description: dict[str, Any]) -> dict[str, Any]:
        """Write `artifact.json`, the last file. Files that a framework wrote itself are hashed now."""
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                if name not in self._digests:
                    _fsync(path)
                files[name] = {"sha256": self._digests.get(name) or sha256_of_file(path), "size": path.stat().st_size}
        description = {"schema_version": SCHEMA_VERSION, **description, "files": files}
        self.write_json(DESCRIPTION, description)
        _fsync(self.folder)
        return description


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends, and vanishes if it fails.

    An older `final` is moved aside first and removed last, so a kill leaves the old folder, the new
    one, or neither: never a mixture.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.{os.getpid()}.partial"
    remove_leftovers(final)
    temporary.mkdir()
    try:
        yield temporary
        outgoing = final.parent / f".{final.name}.{os.getpid()}.old.partial"
        if final.exists():
            final.rename(outgoing)
        temporary.rename(final)
        _fsync(final.parent)
        shutil.rmtree(outgoing, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(final: Path) -> None:
    """Remove what killed exports to `final` left behind."""
    for leftover in final.parent.glob(f".{final.name}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def to_json(value: object) -> str:
    """Readable JSON with sorted keys and a final newline."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


class _HashingFile:
    def __init__(self, file: BinaryIO):
        self._file = file
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self._sha256.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
