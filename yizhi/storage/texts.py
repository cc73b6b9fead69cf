"""Plain text, a sentence per line."""

from pathlib import Path

from yizhi.errors import InputError
from yizhi.storage.records import check_encoding

_HEAD = 1 << 16


def read_texts(path: Path) -> list[str]:
    """The lines that are not empty. Raises InputError if the file cannot be read as UTF-8."""
    try:
        check_encoding(path, path.read_bytes()[:_HEAD])
        return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read: {error}") from None
