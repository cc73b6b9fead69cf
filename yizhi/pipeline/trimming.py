"""`trim_vocab`: a checkpoint without the rows of tokens that a text never needs, proven to answer as before."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from yizhi.errors import CheckFailed, InputError
from yizhi.model.spec import MaskedLMHead
from yizhi.pipeline.trimmed_files import ids_of, read_generation, renumber, write_other_files
from yizhi.reading.checkpoint import WEIGHTS, Checkpoint
from yizhi.reading.safetensors_file import ITEM_SIZES, write_safetensors
from yizhi.reading.sentence_dense import DENSE
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.reading.trimmed_tokenizer import Ids, Usage, choose_tokens, cut, trim_tokenizer
from yizhi.release.artifact import ArtifactWriter
from yizhi.storage.folders import new_folder
from yizhi.storage.records import Source, plain_text

VOCAB_MAP = "vocab_map.json"
_TOGETHER = 1000
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Comparison:
    """A text cut by both tokenizers. tokens, unknown: before and after; unknown ones are [UNK].

    same: lines with the same tokens before and after.
    """

    lines: int
    same: int
    tokens: tuple[int, int]
    unknown: tuple[int, int]

    @property
    def unknown_share(self) -> tuple[float, float]:
        """[UNK] among the tokens, before and after."""
        before, after = (part / max(whole, 1) for part, whole in zip(self.unknown, self.tokens, strict=True))
        return before, after


@dataclass(frozen=True)
class TrimReport:
    """What left, before and after. rows: of the table of words. table_bytes: of all tables that lost rows.

    bytes: of all weights. text: what it was trimmed for. check: the other text, if one was given.
    left_out: files of the folder that would say something else, with the reason. notes: see `Checkpoint.notes`.
    """

    rows: tuple[int, int]
    table_bytes: tuple[int, int]
    bytes: tuple[int, int]
    text: Comparison
    check: Comparison | None
    left_out: Mapping[str, str]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def trim_vocab(
    base: Path, texts: Sequence[Path], out: Path, min_count: int = 1, check: Sequence[Path] = ()
) -> TrimReport:
    """Write the checkpoint `base` with the tokens alone that these texts need, and `vocab_map.json`.

    texts, check: UTF-8, a text on each line. min_count: tokens that came less often leave too, but for single
    characters; their words are then spelled in shorter pieces. check: a text to count [UNK] in, and nothing else.
    Raises InputError, having written nothing, naming each line of `texts` whose tokens would differ although none of
    them leaves. Raises CheckFailed where what was written is not the rows that it should be.
    """
    with Checkpoint.open(base) as checkpoint:
        if out.resolve() == checkpoint.folder.resolve():
            raise InputError(out, "is the checkpoint itself: expected another folder")
        text, usage = checkpoint.text, Usage(checkpoint.text)
        for _, lines in _read(texts):
            usage.add(lines)
        if not usage.counts.any():
            raise _no_text(texts)
        kept = choose_tokens(usage, min_count, _named_ids(checkpoint))
        trimmed = trim_tokenizer(text, kept)
        compared = _compare(text, trimmed, kept, texts, strict=True)
        checked = _compare(text, trimmed, kept, check, strict=False) if check else None
        if checked and not checked.tokens[0]:
            raise _no_text(check)
        tables = _tables(checkpoint)
        with new_folder(out, replaces=(VOCAB_MAP,)) as folder:
            writer = ArtifactWriter(folder)
            sizes = _write_weights(checkpoint, kept, tables, writer)
            left_out = _write_others(checkpoint, trimmed, kept, min_count, writer)
            _check_written(checkpoint, trimmed, kept, tables, folder)
        return TrimReport(
            rows=(checkpoint.config.vocab_size, len(kept)),
            text=compared,
            check=checked,
            left_out=left_out,
            notes=tuple(checkpoint.notes()),
            table_bytes=(sizes["table_bytes"][0], sizes["table_bytes"][1]),
            bytes=(sizes["bytes"][0], sizes["bytes"][1]),
        )


def _no_text(paths: Sequence[Path]) -> InputError:
    return InputError(", ".join(map(str, paths)), "no text")


def _read(paths: Sequence[Path]) -> Iterator[tuple[list[str], list[str]]]:
    """Some lines at a time: where each stands, and what it says. Raises InputError naming lines that are not UTF-8."""
    for path in paths:
        with Source.of(str(path), "txt", "text", None).open() as reader:
            lines = iter(reader)
            while block := list(islice(lines, _TOGETHER)):
                faults = [f"line {record.number}: {record.fault}" for record in block if record.fault]
                if faults:
                    raise InputError(path, faults[:_MOST_FAULTS])
                yield [f"{path}, line {record.number}" for record in block], [plain_text(record) for record in block]


def _compare(before: TextTokenizer, after: TextTokenizer, kept: Ids, texts: Sequence[Path], strict: bool) -> Comparison:
    """Cut every line by both. strict: raise InputError for lines that differ although no token of theirs left."""
    new = np.full(len(before.vocab), -1)
    new[kept] = np.arange(len(kept))
    faults: list[str] = []
    lines = same = 0
    tokens, unknown = [0, 0], [0, 0]
    for places, block in _read(texts):
        for place, old, found in zip(places, cut(before, block), cut(after, block), strict=True):
            expected = new[old].tolist()
            lines += 1
            same += found == expected
            if strict and found != expected and -1 not in expected:
                faults.append(f"{place}: would have other tokens, although each of them stays")
            for which, (row, tokenizer) in enumerate(((old, before), (found, after))):
                tokens[which] += len(row)
                unknown[which] += row.count(tokenizer.unknown_id)
        if len(faults) >= _MOST_FAULTS:
            break
    if faults:
        raise InputError("text", faults[:_MOST_FAULTS])
    return Comparison(lines, same, (tokens[0], tokens[1]), (unknown[0], unknown[1]))


def _named_ids(checkpoint: Checkpoint) -> list[int]:
    """Ids that the configurations name, and those below a padding id that positions are counted from."""
    raws = checkpoint.config.raw, read_generation(checkpoint)
    found = {index for raw in raws for _, index in ids_of(raw)} | {checkpoint.config.pad_token_id}
    padding = checkpoint.config.padding_idx
    if padding is not None:
        found.update(range(padding + 1))
    return sorted(index for index in found if 0 <= index < len(checkpoint.vocab))


def _tables(checkpoint: Checkpoint) -> set[str]:
    """Names of the parameters that have a row, or a number, for each token."""
    names = {checkpoint.spec.word_embeddings.weight}
    head = checkpoint.spec.head
    if isinstance(head, MaskedLMHead):
        names |= {head.decoder, *([head.decoder_bias] if head.decoder_bias else [])}
    return names


def _write_weights(checkpoint: Checkpoint, kept: Ids, tables: set[str], writer: ArtifactWriter) -> dict[str, list[int]]:
    """Write the weights, each in its stored type. Returns `table_bytes` and `bytes`, before and after."""
    header: dict[str, tuple[str, tuple[int, ...]]] = {}
    sizes = {"table_bytes": [0, 0], "bytes": [0, 0]}
    # Those of Dense modules are in files of their own.
    names = [parameter.name for parameter in checkpoint.parameters() if not parameter.name.startswith(DENSE)]
    for name in names:
        file, stored = checkpoint.source(name)
        entry = file.entries[stored]
        shape = (len(kept), *entry.shape[1:]) if name in tables else entry.shape
        header[name] = (entry.dtype, shape)
        for size in ("bytes", *(["table_bytes"] if name in tables else [])):
            sizes[size][0] += entry.nbytes
            sizes[size][1] += math.prod(shape) * ITEM_SIZES[entry.dtype]

    def chunks() -> Iterator[bytes | memoryview]:
        for name in names:
            file, stored = checkpoint.source(name)
            if name not in tables:
                yield from file.chunks(stored)
                continue
            yield np.ascontiguousarray(file.stored(stored)[kept]).tobytes()
            file.release(stored)

    with writer.open(WEIGHTS) as output:
        write_safetensors(output, header, chunks())
    return sizes


def _write_others(
    checkpoint: Checkpoint, text: TextTokenizer, kept: Ids, min_count: int, writer: ArtifactWriter
) -> dict[str, str]:
    """Write all but the weights. Returns the files that are left out, each with the reason."""
    new, raw = {int(old): index for index, old in enumerate(kept)}, checkpoint.config.raw
    # Padding is named, since a default would not be its new id; and padding needs a row.
    padding = {"pad_token_id": new.get(checkpoint.config.pad_token_id, new[checkpoint.text.pad_id])}
    dtype = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    changed = {**renumber(raw, new), **padding, "vocab_size": len(kept), "dtype": dtype}
    writer.write_json("config.json", checkpoint.published_config() | changed)
    for name, content in text.files(checkpoint.config.longest).items():
        writer.write(name, content)
    told = {
        "schema_version": 1,
        "checkpoint": checkpoint.digest(),
        "rows_before": checkpoint.config.vocab_size,
        "min_count": min_count,
        "old_ids": kept.tolist(),
    }
    writer.write_json(VOCAB_MAP, told)
    return write_other_files(checkpoint, new, writer.folder)


def _check_written(checkpoint: Checkpoint, text: TextTokenizer, kept: Ids, tables: set[str], folder: Path) -> None:
    """Raise CheckFailed unless a reader finds the kept rows, all other weights and this tokenizer there."""
    with Checkpoint.open(folder) as written:
        for parameter in checkpoint.parameters():
            name = parameter.name
            expected = checkpoint.array(name)[kept] if name in tables else checkpoint.array(name)
            if not np.array_equal(written.array(name), expected, equal_nan=True):
                raise CheckFailed(f"{name}: was not written as it was read")
            checkpoint.release(name)
            written.release(name)
        if written.text.plain.to_str() != text.plain.to_str():
            raise CheckFailed("the tokenizer was not written as it was checked")
