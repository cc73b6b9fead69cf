"""Compares an artifact with outputs that others published for real checkpoints: an independent oracle.

The facts are in `published.toml`, each with its source. A team's own catalogue file (docs/catalogue.md) may hold more
in the same form.
"""

import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.catalogue.own import find_own_catalogue
from yizhi.errors import InputError
from yizhi.parity.record import PublishedCheck
from yizhi.parity.tolerances import FloatTolerance, find_gates
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.scores import softmax
from yizhi.runtimes.tokenization import Tokenizer

PUBLISHED = Path(__file__).with_name("published.toml")
# What an entry of each kind must have.
_NEEDED = {
    "hidden_states": ("checkpoint", "text", "source", "vectors"),
    "fill_mask": ("checkpoint", "text", "source", "masks"),
}


def read_published(checkpoint: str) -> list[dict[str, Any]]:
    """The entries for one known checkpoint, each with its `kind`. Numbers are Decimal, to keep their digits.

    Raises InputError if a team's own file cannot be read, or an entry is incomplete.
    """
    own = find_own_catalogue()
    entries: list[dict[str, Any]] = []
    for path in (PUBLISHED, *((own,) if own else ())):
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(path, f"cannot be read: {error}") from None
        for kind, needed in _NEEDED.items():
            for number, entry in enumerate(raw.get(kind, ()), start=1):
                missing = [key for key in needed if key not in entry]
                if missing:
                    raise InputError(path, f"{kind} {number}: {', '.join(missing)}: missing")
                if entry["checkpoint"] == checkpoint:
                    entries.append({**entry, "kind": kind})
    return entries


def check_published(runtime: Runtime, checkpoint: str) -> PublishedCheck:
    """Run every published input of this checkpoint through an opened float32 artifact."""
    result = PublishedCheck(checkpoint)
    tokenizer = Tokenizer.open(runtime.artifact.folder)
    checks = {"hidden_states": _check_hidden_states, "fill_mask": _check_fill_mask}
    for entry in read_published(checkpoint):
        where = f"published for {entry['text']!r} ({entry['source']})"
        for fault in checks[entry["kind"]](runtime, tokenizer, entry, result):
            result.faults.append(f"{where}: {fault}")
    return result


def _check_hidden_states(
    runtime: Runtime, tokenizer: Tokenizer, entry: dict[str, Any], result: PublishedCheck
) -> Iterator[str]:
    inputs = tokenizer.encode([entry["text"]]).inputs
    ids = inputs.input_ids[0].tolist()
    if entry.get("input_ids", ids) != ids:
        yield f"input_ids: expected {entry['input_ids']}; found {ids}"
        return
    wanted = ["last_hidden_state", *(["pooler_output"] if "pooler" in entry else [])]
    missing = [name for name in wanted if name not in runtime.outputs]
    if missing:
        yield f"{', '.join(missing)}: not computed by this artifact"
        return
    found = runtime.run(inputs, wanted)
    for vector in entry["vectors"]:
        yield from _compare(found["last_hidden_state"][0, vector["at"]], vector, f"token {vector['at']}", result)
    if "pooler" in entry:
        yield from _compare(found["pooler_output"][0], entry["pooler"], "pooler", result)


def _check_fill_mask(
    runtime: Runtime, tokenizer: Tokenizer, entry: dict[str, Any], result: PublishedCheck
) -> Iterator[str]:
    if "logits" not in runtime.outputs:
        yield "logits: not computed by this artifact"
        return
    inputs = tokenizer.encode([entry["text"]]).inputs
    scores = softmax(runtime.run(inputs, ["logits"])["logits"][inputs.input_ids == tokenizer.mask_id])  # [masks, V]
    if len(scores) != len(entry["masks"]):
        yield f"expected {len(entry['masks'])} [MASK]; found {len(scores)}"
        return
    for number, (score, top) in enumerate(zip(scores, entry["masks"], strict=True), start=1):
        first = np.argsort(-score, kind="stable")[: len(top)]
        answers = [tokenizer.vocab[index] for index in first.tolist()]
        expected = [answer["token"] for answer in top]
        if answers != expected:
            yield f"mask {number}: expected {' '.join(expected)}; found {' '.join(answers)}"
            continue
        digits = [answer["score"] for answer in top if "score" in answer]
        result.values += len(top) - len(digits)  # an answer without a score is one statement, too
        yield from _compare(score[first[: len(digits)]], {"first": digits}, f"mask {number}", result)


def _compare(found: NDArray, expected: dict[str, Any], name: str, result: PublishedCheck) -> Iterator[str]:
    """The first and the last numbers of a vector, each with the digits that were printed."""
    first, last = expected.get("first", []), expected.get("last", [])
    pairs = [*zip(found, first, strict=False), *zip(found[len(found) - len(last) :], last, strict=True)]
    for index, (value, printed) in enumerate(pairs):
        error = abs(float(value) - float(printed))
        result.values += 1
        result.worst = max(result.worst, error)
        if not error <= allowed(printed):
            yield f"{name}, number {index + 1}: expected {printed}; found {float(value):.7g}"


def allowed(printed: Decimal | int) -> float:
    """Half of the last printed digit, plus float32's own tolerance.

    The same vectors, published from three implementations in float32, differ by up to 2e-6 among themselves.
    """
    tolerance = find_gates("fp32", "cpu")
    if not isinstance(tolerance, FloatTolerance):
        raise TypeError(tolerance)
    exponent = Decimal(printed).as_tuple().exponent
    if not isinstance(exponent, int):
        raise InputError("published number", f"expected digits; found {printed}")
    return 0.5 * 10.0**exponent + tolerance.absolute + tolerance.relative * abs(float(printed))
