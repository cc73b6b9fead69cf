"""Results to a file that only grows at its end, so that a killed run can resume.

A writer appends to a working file. `finish` makes the output from it. A restart cuts off everything after the last
commit.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from yizhi.errors import InputError
from yizhi.storage.records import need_pyarrow

FORMATS = ("jsonl", "parquet", "npy", "safetensors")

# Room for the header of .npy and .safetensors, which says how many rows there are: known at the end alone.
_HEADER = 256


class Writer(Protocol):
    """Appends rows to an open file. `rows`: how many it holds."""

    rows: int

    def begin(self) -> None:
        """Write the part before the first row."""

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows at the end."""

    def finish(self, working: Path, output: Path) -> None:
        """Make `output` from the closed working file, in one step."""


def open_writer(output: Path, file: BinaryIO, rows: int, width: int, columns: dict[str, str]) -> Writer:
    """The writer for a name's ending, on a working file that already holds `rows` rows.

    width: of a row that is a vector. columns: name -> kind of the others.
    """
    suffix = output.suffix.lower().lstrip(".")
    if suffix == "jsonl":
        return JsonLines(file, rows)
    if suffix == "parquet":
        return Parquet(file, rows, columns)
    return Array(file, rows, width, suffix)


def check_output(output: Path, fixed_width: bool) -> None:
    """Raise InputError for an unknown ending, and for a format that cannot hold the output."""
    suffix = output.suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise InputError(output, f"expected a name ending in .{', .'.join(FORMATS)}")
    if suffix == "parquet":
        need_pyarrow(output)
    if suffix in ("npy", "safetensors") and not fixed_width:
        raise InputError(output, f".{suffix} holds one vector a row; for anything else, write .jsonl or .parquet")


class JsonLines:
    """One JSON object a line."""

    def __init__(self, file: BinaryIO, rows: int) -> None:
        self.rows = rows
        self._file = file

    def begin(self) -> None:
        """Nothing stands before the first row."""

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """A line for each row."""
        self.rows += len(rows)
        for row in rows:
            self._file.write(to_json_line(row).encode() + b"\n")

    def finish(self, working: Path, output: Path) -> None:
        """The working file is the output."""
        working.replace(output)


def to_json_line(value: object) -> str:
    """JSON of values and arrays. A float has the fewest digits that give the same float32 back."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray):
        return [float(str(number)) for number in value] if value.ndim == 1 else [_plain(row) for row in value]
    raise TypeError(f"{type(value).__name__} is not JSON")


class Array:
    """float32 [rows, width] of each row's `embedding`, as .npy or as the tensor `embeddings` of a .safetensors.

    Row i is the input's row i. A row that could not be used is NaN.
    """

    def __init__(self, file: BinaryIO, rows: int, width: int, kind: str) -> None:
        self.rows = rows
        self._file = file
        self._width = width
        self._kind = kind

    def begin(self) -> None:
        """Keep room for the header."""
        self._file.write(bytes(_HEADER))

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows at the end."""
        self.rows += len(rows)
        for row in rows:
            vector = np.full(self._width, np.nan, np.float32) if row["embedding"] is None else row["embedding"]
            self._file.write(np.ascontiguousarray(vector, "<f4").data)

    def finish(self, working: Path, output: Path) -> None:
        """Write the header, now that the number of rows is known, and move the file into place."""
        with open(working, "r+b") as file:
            file.write(self._header())
            file.flush()
            os.fsync(file.fileno())
        working.replace(output)

    def _header(self) -> bytes:
        shape = (self.rows, self._width)
        if self._kind == "npy":
            # Version 1.0 of numpy.lib.format: magic, version, length of the text, the text with \n at its end.
            text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
            size = _HEADER - 10
            return b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1) + b"\n"
        tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * self.rows * self._width]}
        size = _HEADER - 8
        return size.to_bytes(8, "little") + json.dumps({"embeddings": tensor}).encode().ljust(size)


class Parquet:
    """A Parquet file. A growing one has no index yet, so the working file is a stream of Arrow batches."""

    def __init__(self, file: BinaryIO, rows: int, columns: dict[str, str]) -> None:
        import pyarrow

        self.rows = rows
        self._file = file
        self._schema = pyarrow.schema([(name, _arrow_type(kind)) for name, kind in columns.items()])

    def begin(self) -> None:
        """The schema, which opens an Arrow stream."""
        self._file.write(self._schema.serialize())

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """One Arrow batch."""
        import pyarrow

        self.rows += len(rows)
        if rows:
            self._file.write(pyarrow.RecordBatch.from_pylist(list(rows), schema=self._schema).serialize())

    def finish(self, working: Path, output: Path) -> None:
        """Copy the batches to a Parquet file, one at a time."""
        import pyarrow
        from pyarrow import parquet

        copy = working.with_name(working.name + ".parquet")
        with open(working, "rb") as stream, parquet.ParquetWriter(copy, self._schema) as writer:
            for batch in pyarrow.ipc.open_stream(stream):
                writer.write_batch(batch)
        copy.replace(output)
        working.unlink()


def _arrow_type(kind: str) -> Any:
    import pyarrow

    vector = pyarrow.list_(pyarrow.float32())
    text, number, score = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    prediction = {"token": text, "token_id": number, "score": score, "sentence": text, "sentence_pair": text}
    span = {"text": text, "start": number, "end": number, "score": score}

    def rows(fields: dict[str, Any]) -> Any:
        return pyarrow.list_(pyarrow.struct(list(fields.items())))

    return {
        "row": number,
        "vector": vector,
        "vectors": pyarrow.list_(vector),
        "sparse": pyarrow.struct(
            [("token_ids", pyarrow.list_(number)), ("tokens", pyarrow.list_(text)), ("weights", vector)]
        ),
        "masks": pyarrow.list_(rows(prediction)),
        "labels": rows({"label": text, "score": score}),
        "entities": rows({"label": text, **span}),
        "tags": rows({"label": text, **span}),
        "answers": rows(span),
        "documents": rows({"index": number, "text": text, "score": score, "logit": score}),
        "score": score,
    }[kind]
