"""sha256 of files and folders, and differences from recorded digests."""

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

_WORTH_A_THREAD = 1 << 18


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_folder(folder: Path) -> dict[str, Any]:
    """sha256 and size of every file in a folder. Empty if there is no folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {path.relative_to(folder).as_posix(): describe_file(path) for path in files}


def describe_file(path: Path) -> dict[str, Any] | None:
    """sha256 and size of a file. None if there is no file."""
    if not path.is_file():
        return None
    return {"sha256": sha256_of_file(path), "size": path.stat().st_size}


def find_alterations(folder: Path, expected: dict[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """One line per file below `folder` that is missing, extra, linked, or not as described.

    expected: path -> its `sha256` and `size`. ignored: names directly in `folder` to skip.
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


class HashingFile:
    """Hashes a large piece in a thread while it is written. Neither holds the interpreter lock."""

    def __init__(self, file: BinaryIO, thread: ThreadPoolExecutor) -> None:
        self._file = file
        self._thread = thread
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash; returns once both are done."""
        if memoryview(data).nbytes < _WORTH_A_THREAD:
            self._sha256.update(data)
            return self._file.write(data)
        hashed = self._thread.submit(self._sha256.update, data)
        length = self._file.write(data)
        hashed.result()  # whoever wrote it may now change it
        return length

    def flush(self) -> None:
        """As a file's."""
        self._file.flush()

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()

    def hexdigest(self) -> str:
        """sha256 of the written bytes."""
        return self._sha256.hexdigest()
