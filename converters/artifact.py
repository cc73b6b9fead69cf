"""An artifact folder: written whole or not at all, and described by its own `artifact.json`."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from converters.checkpoint import Checkpoint, sha256_of_file
from converters.config import read_json_object
from converters.errors import InputError
from converters.schema import find_violations
from converters.tokenizer_files import tokenizer_files

DESCRIPTION = "artifact.json"
SCHEMA_VERSION = 1
SCHEMA = "artifact.v1"
_WORTH_A_THREAD = 1 << 18
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        faults = find_violations(description, SCHEMA)
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
        description = self.folder / DESCRIPTION
        faults = [f"{DESCRIPTION}: is a symbolic link"] if description.is_symlink() else []
        return faults + find_alterations(self.folder, self.description["files"], {DESCRIPTION})


class ArtifactWriter:
    """Collects an artifact's files in a temporary folder, hashing them as they are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file for writing; its sha256 is taken on the way."""
        (self.folder / name).parent.mkdir(exist_ok=True)
        with open(self.folder / name, "xb") as file, ThreadPoolExecutor(1) as thread:
            hashing = _HashingFile(file, thread)
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
            if path.is_dir():
                fsync(path)
            else:
                name = path.relative_to(self.folder).as_posix()
                if name not in self._digests:
                    fsync(path)
                files[name] = {"sha256": self._digests.get(name) or sha256_of_file(path), "size": path.stat().st_size}
        description = {"schema_version": SCHEMA_VERSION, **description, "files": files}
        self.write_json(DESCRIPTION, description)
        fsync(self.folder)
        return description


@contextmanager
def new_folder(final: Path, replaces: Sequence[str] = (DESCRIPTION,)) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends, and vanishes if it fails.

    replaces: an existing `final` must be empty or hold one of these files, so that a wrong `--out`
    never costs somebody their folder. It is moved aside first and removed last: a kill leaves the
    old folder, the new one, or neither, never a mixture; after an error the old one is back.
    Raises InputError where `final` may not be replaced, or the disk is full or cannot be written.
    """
    temporary = final.parent / f".{final.name}.{os.getpid()}.partial"
    try:
        _check_replaceable(final, replaces)
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        temporary.mkdir()
    except OSError as error:
        raise InputError(final, f"cannot be written: {error.strerror}") from error
    with _locked(temporary):
        try:
            yield temporary
            _swap(temporary, final)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                raise InputError(final, f"cannot be written: {error.strerror}") from error
            raise


def remove_leftovers(final: Path) -> None:
    """Remove what killed exports to `final` left behind. A running export's folder is locked, and stays."""
    pattern = re.compile(re.escape(f".{final.name}.") + r"\d+(\.old)?\.partial")
    for leftover in final.parent.iterdir() if final.parent.is_dir() else ():
        if pattern.fullmatch(leftover.name):
            with suppress(OSError), _locked(leftover):
                shutil.rmtree(leftover, ignore_errors=True)


def _check_replaceable(final: Path, replaces: Sequence[str]) -> None:
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise InputError(final, "is in the way: expected a folder, or nothing yet")
    if final.is_dir() and any(final.iterdir()) and not any((final / name).is_file() for name in replaces):
        raise InputError(final, f"exists and is not ours to replace: it holds no {' or '.join(replaces)}")


def _swap(temporary: Path, final: Path) -> None:
    """Put `temporary` in the place of `final`; on failure, put the old `final` back."""
    outgoing = final.parent / f".{final.name}.{os.getpid()}.old.partial"
    replacing = final.exists()
    if replacing:
        final.rename(outgoing)
    try:
        temporary.rename(final)
    except BaseException:
        if replacing:
            outgoing.rename(final)
        raise
    fsync(final.parent)
    shutil.rmtree(outgoing, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock that marks a temporary folder as in use. Raises BlockingIOError where another has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def find_alterations(folder: Path, expected: dict[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """One line per file below `folder` that is missing, extra, linked or not as described.

    expected: path -> its `sha256` and `size`. ignored: names directly in `folder` that are not looked at.
    """
    paths = [top for top in folder.iterdir() if top.name not in ignored] if folder.is_dir() else []
    paths += [path for top in paths if not top.is_symlink() for path in top.rglob("*")]
    found = {path.relative_to(folder).as_posix(): path for path in paths if path.is_symlink() or not path.is_dir()}
    faults = [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    faults += [f"{name}: not listed" for name in sorted(found.keys() - expected.keys())]
    common = sorted(expected.keys() & found.keys())
    with ThreadPoolExecutor() as pool:
        altered = pool.map(lambda name: _find_alteration(found[name], name, expected[name]), common)
        return faults + [fault for fault in altered if fault]


def _find_alteration(path: Path, name: str, expected: dict[str, Any]) -> str | None:
    if path.is_symlink():
        return f"{name}: is a symbolic link"
    if not path.is_file():  # reading a pipe would wait for ever
        return f"{name}: is not a file"
    if path.stat().st_size != expected["size"]:
        return f"{name}: expected {expected['size']} bytes; found {path.stat().st_size}"
    try:
        digest = sha256_of_file(path)
    except OSError as error:
        return f"{name}: cannot be read: {error.strerror}"
    return None if digest == expected["sha256"] else f"{name}: expected sha256 {expected['sha256']}; found {digest}"


def to_json(value: object) -> str:
    """Readable JSON with sorted keys and a final newline."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


class _HashingFile:
    """Hashes a large piece in the thread while it is written: neither holds the interpreter."""

    def __init__(self, file: BinaryIO, thread: ThreadPoolExecutor) -> None:
        self._file = file
        self._thread = thread
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        if memoryview(data).nbytes < _WORTH_A_THREAD:
            self._sha256.update(data)
            return self._file.write(data)
        hashed = self._thread.submit(self._sha256.update, data)
        length = self._file.write(data)
        hashed.result()  # whoever wrote it may now change it
        return length

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
