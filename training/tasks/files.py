"""Lines of data files. They end at \\n alone: U+2028 and others are part of texts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yizhi.errors import show
from yizhi.training.tasks.faults import Faults


def read_lines(path: Path, faults: Faults) -> Iterator[tuple[int, str]]:
    """Each line with its number from 1. Lines that are not UTF-8 become faults, and so does an unreadable file."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield (
                        number,
                        line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8"),
                    )
                except UnicodeDecodeError as error:
                    faults.add(
                        path, number, f"is not UTF-8: byte {error.start} of the line is {line[error.start]:#04x}"
                    )
    except OSError as error:
        faults.add(path, None, f"cannot be read: {error.strerror}")


def read_json_lines(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """The object of each line that is not empty."""
    for number, line in read_lines(path, faults):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(path, number, f"is not JSON: {error}")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            faults.add(path, number, f"expected an object; found {show(value)}")
