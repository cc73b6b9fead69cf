"""Rows of a file, one at a time, whatever its length: .txt, .jsonl, .csv, .tsv, .parquet, or standard input."""

import codecs
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from yizhi.errors import InputError, show

PIPED_FORMATS = ("txt", "jsonl", "csv", "tsv")  # those that can be read from a pipe
FORMATS = (*PIPED_FORMATS, "parquet")
STDIN = "-"
UTF_8 = "utf-8"
# A line beyond this is no text that a model could read; it is passed over without being held.
LONGEST_LINE = 1 << 20
_HEAD = 1 << 16
_CONVERT = "`iconv -f {} -t UTF-8` converts it"
READ_AS = "`encoding` {} reads it"


@dataclass(frozen=True)
class Record:
    """One row of the input.

    number: its line, or its row in Parquet, from 1. text: the operator's input, or None if the row has a `fault`.
    others: the values of `Source.others`.
    """

    number: int
    text: str | tuple[str, str] | list[str] | None
    fault: str = ""
    others: Mapping[str, Any] = field(default_factory=dict)


def plain_text(record: Record) -> str:
    """The text of a source with one text a row. Empty if the row has a fault. Raises TypeError for other sources."""
    if record.text is None or isinstance(record.text, str):
        return record.text or ""
    raise TypeError("the source gives pairs or words")


@dataclass(frozen=True)
class Source:
    """What to read. `column`, `pair_column` and `others` name fields of JSON objects, and columns of tables.

    words: a text is a list of words, or words with spaces between them. encoding: of text formats, by its Python name.
    """

    path: str
    format: str
    column: str
    pair_column: str | None
    words: bool = False
    others: tuple[str, ...] = ()
    encoding: str = UTF_8

    @classmethod
    def of(
        cls,
        path: str,
        format: str | None,
        column: str,
        pair_column: str | None,
        words: bool = False,
        others: tuple[str, ...] = (),
        encoding: str = UTF_8,
    ) -> "Source":
        """Raises InputError if the file or the encoding does not exist, or if the format is unknown."""
        if path != STDIN and not Path(path).is_file():
            raise InputError(path, "no such file")
        found = format or ("txt" if path == STDIN else Path(path).suffix.lower().lstrip("."))
        if found not in FORMATS:
            raise InputError(path, f"expected a name ending in .{', .'.join(FORMATS)}; found {show(Path(path).name)}")
        if path == STDIN and found == "parquet":
            raise InputError("standard input", "Parquet cannot be read from a pipe: its index is at its end")
        if found == "parquet":
            need_pyarrow(path)
        if found == "txt" and pair_column:
            raise InputError(path, f"a .txt file has one text in a line, and no column {pair_column!r}")
        if found == "parquet" and encoding != UTF_8:
            raise InputError(path, "`encoding` is for text files; a Parquet file has its own encoding")
        return cls(path, found, column, pair_column, words, others, _check_name(encoding))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (self.column, *((self.pair_column,) if self.pair_column else ()), *self.others)

    def size(self) -> int | None:
        """Size in bytes, for progress. None for standard input."""
        return None if self.path == STDIN else Path(self.path).stat().st_size

    def identity(self) -> dict[str, Any]:
        """What identifies this input, and this state of it."""
        changed = None if self.path == STDIN else Path(self.path).stat().st_mtime_ns
        path = self.path if self.path == STDIN else str(Path(self.path).resolve())
        named = {"format": self.format, "column": self.column, "pair_column": self.pair_column}
        named |= {"encoding": self.encoding} if self.encoding != UTF_8 else {}
        return {"path": path, "size": self.size(), "changed": changed, **named}

    @contextmanager
    def open(self, advice: str = _CONVERT) -> Iterator["RecordReader"]:
        """Open for one pass. Raises InputError for a text file in another encoding, or without line feeds.

        advice: as in `check_encoding`.
        """
        if self.path == STDIN:
            yield RecordReader(self, self._as_utf8(sys.stdin.buffer, advice))
        else:
            with open(self.path, "rb", buffering=_HEAD) as file:
                yield RecordReader(self, file if self.format == "parquet" else self._as_utf8(file, advice))

    def _as_utf8(self, file: BinaryIO, advice: str) -> BinaryIO:
        """The file as UTF-8, its beginning looked at."""
        if self.encoding != UTF_8:
            file = io.BufferedReader(_AsUtf8(file, self.encoding, self.path), _HEAD)
        if isinstance(file, io.BufferedReader):
            check_encoding(self.path, file.peek(_HEAD)[:_HEAD], advice)
        return file


class RecordReader:
    """One pass over a source. `done` is the share already read, or None if it cannot be known."""

    def __init__(self, source: Source, file: BinaryIO) -> None:
        self._source = source
        self._file = file
        self._size = source.size()
        self._read = 0

    @property
    def done(self) -> float | None:
        """0 … 1."""
        return None if self._size is None else min(1.0, self._read / max(self._size, 1))

    def __iter__(self) -> Iterator[Record]:
        readers = {"txt": self._txt, "jsonl": self._jsonl, "csv": self._csv, "tsv": self._tsv, "parquet": self._parquet}
        return readers[self._source.format]()

    def _lines(self) -> Iterator[tuple[int, str, str]]:
        """Number, text and fault of each line. Lines end at \\n alone: U+2028 and others are part of texts."""
        number = 0
        while line := self._file.readline(LONGEST_LINE):
            number += 1
            self._read += len(line)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                while rest := self._file.readline(LONGEST_LINE):
                    self._read += len(rest)
                    if rest.endswith(b"\n"):
                        break
                yield number, "", f"the line is longer than {LONGEST_LINE} bytes"
                continue
            try:
                yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode(), ""
            except UnicodeDecodeError as error:
                yield number, "", f"is not UTF-8: byte {error.start} of the line is {line[error.start]:#04x}"

    def _txt(self) -> Iterator[Record]:
        for number, line, fault in self._lines():
            yield Record(number, None, fault) if fault else self._record(number, {self._source.column: line})

    def _jsonl(self) -> Iterator[Record]:
        for number, line, fault in self._lines():
            if fault:
                yield Record(number, None, fault)
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Record(number, None, f"is not JSON: {error}")
                continue
            yield self._record(number, value if isinstance(value, dict) else {self._source.column: value})

    def _csv(self) -> Iterator[Record]:
        # A field may hold line ends; a row is called by the line it ends on, as the csv module does.
        rows = csv.reader(_Counting(self), strict=True)
        yield from self._table(rows, lambda: rows.line_num)

    def _tsv(self) -> Iterator[Record]:
        # Quotes are characters like others, and a field has no tab and no line end: the media type's own rules.
        number, fault = 0, ""

        def rows() -> Iterator[list[str]]:
            nonlocal number, fault
            for number, text, fault in self._lines():  # noqa: B007 - told by the two functions below
                yield text.split("\t") if text else []

        yield from self._table(rows(), lambda: number, lambda: fault)

    def _table(
        self, rows: Iterable[list[str]], number: Callable[[], int], fault: Callable[[], str] = str
    ) -> Iterator[Record]:
        """Records of rows of cells, the first of them the names of the columns. number, fault: of the row last read."""
        header: list[str] | None = None
        try:
            for cells in rows:
                if fault():
                    if header is None:
                        raise InputError(self._source.path, f"line {number()}: {fault()}")
                    yield Record(number(), None, fault())
                    continue
                if header is None:
                    header = cells
                    self._check_columns(header)
                    continue
                if not cells:
                    continue
                bad = next((cell for cell in cells if any("\udc80" <= char <= "\udcff" for char in cell)), None)
                if bad is not None:
                    yield Record(number(), None, "is not UTF-8")
                elif len(cells) != len(header):
                    yield Record(number(), None, f"expected {len(header)} columns; found {len(cells)}")
                else:
                    yield self._record(number(), dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            raise InputError(self._source.path, f"line {number()}: is not CSV: {error}") from None
        if header is None:
            raise InputError(self._source.path, "is empty: expected a line with the names of the columns")

    def _parquet(self) -> Iterator[Record]:
        import pyarrow
        from pyarrow import parquet

        number = 0
        try:
            file = parquet.ParquetFile(self._file, pre_buffer=False)
            self._check_columns(file.schema_arrow.names)
            columns = list(self._source.columns)
            rows = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    self._read = int((self._size or 0) * number / rows)
                    yield self._record(number, values)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(self._source.path, f"is not Parquet, or is damaged: {error}") from None
        except UnicodeDecodeError as error:
            raise InputError(self._source.path, f"after row {number}: a text is not UTF-8: {error}") from None

    def _check_columns(self, found: list[str]) -> None:
        faults = [
            f"has no column {name!r}; found {', '.join(map(show, found[:20]))}"
            for name in self._source.columns
            if name not in found
        ]
        faults += [
            f"expected column {name!r} once; found it {found.count(name)} times"
            for name in self._source.columns
            if found.count(name) > 1
        ]
        if faults:
            raise InputError(self._source.path, faults)

    def _record(self, number: int, values: Mapping[str, Any]) -> Record:
        if self._source.words:
            return self._words(number, values)
        texts = []
        for parameter in ("column", "pair_column"):
            name = getattr(self._source, parameter)
            if name is None:
                continue
            if not isinstance(values.get(name), str):
                return Record(number, None, f"{name}: {_describe_missing(name, values, parameter)}")
            texts.append(values[name])
        others = {name: values.get(name) for name in self._source.others}
        return Record(number, texts[0] if len(texts) == 1 else (texts[0], texts[1]), others=others)

    def _words(self, number: int, values: Mapping[str, Any]) -> Record:
        words = values.get(self._source.column)
        if isinstance(words, str):
            return Record(number, words.split())
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return Record(number, words)
        return Record(number, None, f"{self._source.column}: expected a list of words; found {show(words)}")


def check_encoding(path: object, head: bytes, advice: str = _CONVERT) -> None:
    """Refuse a text file by its first bytes, if every row would fail or be misread.

    advice: what to do; {} stands for the encoding. Raises InputError for UTF-16, for GB18030 that is not UTF-8, and for
    lines that end in CR alone. A few bytes that are not UTF-8 are faults of their rows.
    """
    checked = head.split(b"\n")[:-1] or [_without_cut_character(head)]  # the last may have been cut
    wrong = [line for line in checked if not _decodes(line, "utf-8")]
    zeros = head.count(0)
    if (
        head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        or zeros > len(head) // 4
        or (wrong and zeros >= len(checked))
    ):
        raise InputError(path, f"expected UTF-8; found UTF-16: {advice.format('UTF-16')}")
    if b"\r" in head[:-1] and b"\n" not in head:
        raise InputError(path, "expected lines that end in LF or CR LF; found CR alone: `tr '\\r' '\\n'` converts it")
    others = sum(not line.isascii() for line in checked)
    if wrong and len(wrong) > others // 2 and all(_decodes(line, "gb18030") for line in wrong):
        raise InputError(path, f"expected UTF-8; found what looks like GB18030 (GBK): {advice.format('GB18030')}")


def _without_cut_character(line: bytes) -> bytes:
    """The line without the beginning of a UTF-8 character at its end, if there is one."""
    for length in (1, 2, 3):
        if len(line) > length and line[-length] & 0xC0 == 0xC0:  # where a character of several bytes begins
            return line if _decodes(line[-length:], "utf-8") else line[:-length]
    return line


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _check_name(encoding: str) -> str:
    """The encoding's usual name. Raises InputError unless it is one of texts."""
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise InputError("`encoding`", f"expected a name such as gb18030 or utf-16; found {show(encoding)}") from None


def _describe_missing(name: str, values: Mapping[str, Any], parameter: str) -> str:
    if name in values:
        return f"expected a string; found {show(values[name])}"
    fields = ", ".join(map(show, list(values)[:20]))
    return f"expected a string; found nothing. The row has {fields}: `{parameter}` names another"


def need_pyarrow(path: object) -> None:
    """Raise InputError if pyarrow is missing: Parquet needs it."""
    if not find_spec("pyarrow"):
        raise InputError(path, "Parquet needs pyarrow: pip install 'yizhi[bulk]'")


class _AsUtf8(io.RawIOBase):
    """A file in another encoding, as bytes of UTF-8. Raises InputError if the file is not in that encoding."""

    def __init__(self, file: BinaryIO, encoding: str, path: str) -> None:
        self._file = file
        self._encoding, self._path = encoding, path
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill what fits; 0 at the end."""
        while not self._left and not self._ended:
            raw = self._file.read(_HEAD)
            self._ended = not raw
            try:
                self._left = self._decoder.decode(raw, self._ended).encode()
            except UnicodeError as error:
                raise InputError(self._path, f"is not {self._encoding}: {error}") from None
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


class _Counting:
    """Lines of a table. Bytes that are not UTF-8 become lone surrogates."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._stream = io.TextIOWrapper(reader._file, "utf-8-sig", errors="surrogateescape", newline="")

    def __iter__(self) -> Iterator[str]:
        while line := self._stream.readline(LONGEST_LINE):
            self._reader._read += len(line.encode(errors="surrogateescape"))
            yield line
        self._stream.detach()
