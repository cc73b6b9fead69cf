"""Folders and small files that are whole or absent, also after a kill or a power cut."""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from yizhi.errors import InputError
from yizhi.storage.locks import hold

_IN_USE = "another process is writing here"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def new_folder(final: Path, replaces: Sequence[str] = ()) -> Iterator[Path]:
    """A temporary folder. It becomes `final` when the block ends, and vanishes if the block fails.

    replaces: an existing `final` must be empty or hold one of these files, so that a wrong path never costs somebody a
    folder. It is moved aside first and removed last. A kill leaves the old folder, the new folder, or neither, never a
    mixture. An error restores the old folder.
    The files have the permissions that the umask allows, whatever library wrote them.
    Raises InputError if `final` may not be replaced, or if the disk is full or cannot be written.
    """
    try:
        check_replaceable(final, replaces)
    except OSError as error:
        raise InputError(final, f"cannot be written: {error.strerror}") from error
    with scratch_folder(final) as temporary:
        yield temporary
        _share(temporary)
        _swap(temporary, final)


@contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """A temporary folder next to `final`. It is removed when the block ends, unless the block moved it away.

    The next call for `final` removes leftovers of a kill.
    Raises InputError if the disk is full or cannot be written.
    """
    temporary = final.parent / f".{final.name}.{os.getpid()}.partial"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        temporary.mkdir()
    except OSError as error:
        raise InputError(final, f"cannot be written: {error.strerror}") from error
    with hold(temporary, _IN_USE):
        try:
            yield temporary
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise InputError(final, f"cannot be written: {error.strerror}") from error
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(final: Path) -> None:
    """Remove the folders of killed exports to `final`. The folder of a running export is locked, and stays."""
    pattern = re.compile(re.escape(f".{final.name}.") + r"\d+(\.old)?\.partial")
    for leftover in final.parent.iterdir() if final.parent.is_dir() else ():
        if pattern.fullmatch(leftover.name):
            with suppress(InputError), hold(leftover, _IN_USE):
                shutil.rmtree(leftover, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that it is whole or absent, also after a power cut."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_replaceable(final: Path, replaces: Sequence[str]) -> None:
    """Raise InputError if `new_folder` would: the path holds something that is not a folder of ours."""
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise InputError(final, "expected a folder, or nothing yet; found a file or a link")
    if final.is_dir() and any(final.iterdir()) and not any((final / name).is_file() for name in replaces):
        why = f": it holds no {' or '.join(replaces)}" if replaces else ""
        raise InputError(final, f"exists and is not ours to replace{why}")


def _share(folder: Path) -> None:
    """Give every file the permissions of a file that `open` makes: safetensors writes for its owner only."""
    usual = folder.stat().st_mode & 0o666  # `mkdir` went by the umask too
    for path in folder.rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_file() and not path.is_symlink() and mode | usual != mode:
            path.chmod(mode | usual)


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


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
