"""An artifact folder: whole or absent, and described by its own `artifact.json`."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from yizhi.errors import InputError
from yizhi.release.schema import find_violations
from yizhi.storage.digests import HashingFile, find_alterations, sha256_of_file
from yizhi.storage.folders import fsync
from yizhi.storage.json_files import read_json_object, to_json

DESCRIPTION = "artifact.json"
# Tells of verification, and so is written after it: the release's manifest lists it, `artifact.json` cannot.
CARD = "README.md"
UNFINISHED = "has no manifest.json: it is not a finished release"
SCHEMA_VERSION = 1
SCHEMA = "artifact.v1"
_WORTH_A_THREAD = 1 << 18
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def say_what_else(folder: Path) -> str | None:
    """What a folder is instead, and what to do with it. None if its files do not tell."""
    if not folder.exists():
        return "no such file or folder"
    if not folder.is_dir():
        return "is a file, not a folder"
    if names := sorted(path.parent.name for path in folder.glob(f"*/{DESCRIPTION}")):
        if not (folder / "manifest.json").exists():
            return f"{UNFINISHED}; artifacts in it: {', '.join(names)}"
        return f"is a release; open one of its artifacts: {', '.join(names)}"
    if (folder / DESCRIPTION).exists():
        return f"is one artifact; its release is the folder that it lies in, {folder.resolve().parent}"
    if (folder / "config.json").exists():
        return "is a checkpoint; `yizhi export` makes a release of it"
    return None


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and its `artifact.json`."""

    folder: Path
    description: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> "Artifact":
        """Read `artifact.json`. Raises InputError if the file is missing or not of this schema."""
        folder = Path(folder)
        if not (folder / DESCRIPTION).exists():
            raise InputError(folder, say_what_else(folder) or f"is no artifact: it has no {DESCRIPTION}")
        description = read_json_object(folder / DESCRIPTION)
        faults = find_violations(description, SCHEMA)
        if faults:
            raise InputError(folder / DESCRIPTION, faults)
        return cls(folder, description)

    @property
    def target(self) -> str:
        """The name of the artifact's target."""
        return str(self.description["target"])

    @property
    def signatures(self) -> dict[str, list[str]]:
        """Named groups of outputs."""
        signatures: dict[str, list[str]] = self.description["signatures"]
        return signatures

    @property
    def reads_images(self) -> bool:
        """Whether the artifact's model has an image stream."""
        return "image_mask" in self.description["inputs"]

    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(entry["size"] for entry in self.description["files"].values())

    def find_altered_files(self) -> list[str]:
        """One line per file that is missing, extra, linked or altered. A model card is optional."""
        own = (DESCRIPTION, CARD)
        faults = [f"{name}: is a symbolic link" for name in own if (self.folder / name).is_symlink()]
        faults += [f"{name}: is a folder" for name in own if (self.folder / name).is_dir()]
        return faults + find_alterations(self.folder, self.description["files"], own)


class ArtifactWriter:
    """Collects an artifact's files in a temporary folder, and hashes them while they are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] = {}
        self._said: dict[str, Any] = {}

    def say(self, key: str, value: Any) -> None:
        """Add facts of the conversion to the description that `describe` writes."""
        self._said[key] = value

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file for writing. Its sha256 is computed on the way."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder / name, "xb") as file, ThreadPoolExecutor(1) as thread:
            hashing = HashingFile(file, thread)
            yield hashing  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        self._digests[name] = hashing.hexdigest()

    def write(self, name: str, data: bytes | str) -> None:
        """Write a whole small file."""
        with self.open(name) as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def write_json(self, name: str, value: object) -> None:
        """Write JSON. Equal values give equal bytes."""
        self.write(name, to_json(value))

    def describe(self, description: dict[str, Any]) -> dict[str, Any]:
        """Write `artifact.json`, the last file. Files that a framework wrote itself are hashed now."""
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_dir():
                fsync(path)
            else:
                name = path.relative_to(self.folder).as_posix()
                if name not in self._digests:
                    fsync(path)
                files[name] = {"sha256": self._digests.get(name) or sha256_of_file(path), "size": path.stat().st_size}
        description = {"schema_version": SCHEMA_VERSION, **description, **self._said, "files": files}
        self.write_json(DESCRIPTION, description)
        fsync(self.folder)
        return description
