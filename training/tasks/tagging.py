"""Token classification from CoNLL files: entities in BIO or BIOES, or a plain tag for every token."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import show
from yizhi.model.label_heads import TOKENS
from yizhi.runtimes.tokenization import Row, Tokenizer
from yizhi.training.features import IGNORED, Feature
from yizhi.training.tasks.faults import Faults
from yizhi.training.tasks.files import read_json_lines, read_lines

_OUTSIDE = "O"
_ENTITY = re.compile(r"([BIES])-(.+)")


@dataclass(frozen=True)
class Sentence:
    """Tokens and their tags, one each. line: where it begins in its file."""

    path: Path
    line: int
    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    def text(self) -> tuple[str, list[tuple[int, int]]]:
        """The sentence as the tokenizer reads it, and each token's first and last-plus-one character.

        Chinese has no spaces, and neither do the single characters of a word that a file spells out. Whole words of
        other scripts have one space between them.
        """
        text, spans = "", []
        for token, before in zip(self.tokens, ("", *self.tokens), strict=False):
            words = len(token) > 1 or len(before) > 1
            if before and words and _is_letter(before[-1]) and _is_letter(token[0]):
                text += " "
            spans.append((len(text), len(text) + len(token)))
            text += token
        return text, spans


class TaggingReader:
    """Reads .jsonl (objects with `tokens` and `tags`), and any other name as CoNLL: a token and its tag in a line.

    Columns are separated by a tab, or else by spaces; the first is the token and the last its tag, as in the MSRA and
    People's Daily corpora. An empty line ends a sentence.
    """

    def read(self, path: Path, faults: Faults) -> list[Sentence]:
        """Every sentence of a file."""
        known = len(faults)
        sentences = list((_read_objects if path.suffix == ".jsonl" else _read_conll)(path, faults))
        if not sentences and len(faults) == known:
            faults.add(path, None, "has no sentence")
        return sentences

    def make_task(self, examples: Sequence[Sentence]) -> "Tagging":
        """The task, with O first, then each entity's tags."""
        return Tagging(tuple(sorted({tag for example in examples for tag in example.tags}, key=_order)))

    def task_of(self, labels: Sequence[str], problem_type: str | None) -> "Tagging":
        """With a model's own labels."""
        return Tagging(tuple(labels))


@dataclass(frozen=True)
class Tagging:
    """Tags of tokens. Entities are scored by seqeval, plain tags one by one."""

    labels: tuple[str, ...]
    name = TOKENS
    best = "f1"

    @property
    def has_entities(self) -> bool:
        """Whether the tags form a BIO or BIOES scheme."""
        return any(map(_ENTITY.fullmatch, self.labels))

    def config(self) -> Mapping[str, Any]:
        """`id2label` and `label2id`."""
        return {
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }

    def check(self, examples: Sequence[Sentence], faults: Faults) -> None:
        """Add faults for unknown tags, and for tags outside the file's scheme."""
        for example in examples:
            for number, tag in enumerate(example.tags):
                line = example.line if example.path.suffix == ".jsonl" else example.line + number
                if tag not in self.labels:
                    faults.add(example.path, line, f"tag {show(tag)} is unknown: expected one of {_list(self.labels)}")
                elif self.has_entities and tag != _OUTSIDE and not _ENTITY.fullmatch(tag):
                    faults.add(
                        example.path, line, f"expected O or a tag such as B-PER, like the others; found {show(tag)}"
                    )

    def encode(self, examples: Sequence[Sentence], tokenizer: Tokenizer, faults: Faults) -> list[Feature]:
        """The first piece of each token has its tag; a long sentence is read in windows that overlap."""
        ids = {label: index for index, label in enumerate(self.labels)}
        texts = [example.text() for example in examples]
        features = []
        for number, (example, (_, spans), row) in enumerate(
            zip(examples, texts, tokenizer.tokenize([text for text, _ in texts]), strict=True)
        ):
            targets = np.full(len(row.ids), IGNORED)
            for place, (first, last) in align(row, spans).items():
                targets[place] = ids.get(_merge(example.tags[first:last]), ids.get(example.tags[first], IGNORED))
            for window in tokenizer.fit(row, "windows"):
                features.append(Feature(window, number, token_targets={"labels": targets[window.places]}))
        return features

    def score(
        self, examples: Sequence[Sentence], features: Sequence[Feature], logits: Sequence[NDArray]
    ) -> dict[str, float]:
        """Entity precision, recall and F1 as conlleval counts them; of plain tags, accuracy and macro F1."""
        expected = [list(example.tags) for example in examples]
        return score_tags(expected, self.predict(examples, features, logits), self.has_entities)

    def guess(self, trained_on: Sequence[Sentence], examples: Sequence[Sentence]) -> dict[str, float]:
        """The scores of the likeliest tag everywhere."""
        likeliest = Counter(tag for example in trained_on for tag in example.tags).most_common(1)[0][0]
        expected = [list(example.tags) for example in examples]
        return score_tags(expected, [[likeliest] * len(tags) for tags in expected], self.has_entities)

    def predict(
        self, examples: Sequence[Sentence], features: Sequence[Feature], logits: Sequence[NDArray]
    ) -> list[list[str]]:
        """A tag for every token of every example."""
        found = [[_OUTSIDE if self.has_entities else ""] * len(example.tokens) for example in examples]
        margins = [[-1] * len(example.tokens) for example in examples]
        spans = [example.text()[1] for example in examples]
        for feature, scores in zip(features, logits, strict=True):
            best = scores.argmax(axis=-1)
            tags, margin = found[feature.example], margins[feature.example]
            for place, (first, last) in align(feature.row, spans[feature.example]).items():
                context = min(place, feature.length - 1 - place)
                if context > margin[first]:
                    tags[first:last] = _spread(self.labels[best[place]], last - first)
                    margin[first:last] = [context] * (last - first)
        return found


def align(row: Row, spans: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Position of a piece -> its tokens, as first and last-plus-one.

    A token of several pieces belongs to its first piece. A piece over several tokens (a file that spells NBA in three
    lines) has all of them. Tokens that the tokenizer drops, such as control characters, have no piece.
    """
    starts = [begin for begin, _ in spans]
    pieces: dict[int, tuple[int, int]] = {}
    taken = 0
    for place in range(1, len(row.ids) - 1):
        begin, end = row.offsets[place].tolist()
        first = max(int(np.searchsorted(starts, begin, side="right")) - 1, taken)
        last = int(np.searchsorted(starts, end, side="left"))
        if first < last and begin < spans[first][1]:
            pieces[place] = (first, last)
            taken = last
    return pieces


def score_tags(expected: list[list[str]], found: list[list[str]], entities: bool) -> dict[str, float]:
    """Scores from 0 to 1."""
    if entities:
        from seqeval.metrics import f1_score, precision_score, recall_score

        measures = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
        return {name: float(measure(expected, found, zero_division=0)) for name, measure in measures.items()}
    from sklearn.metrics import accuracy_score, f1_score

    flat = [[tag for sentence in tags for tag in sentence] for tags in (expected, found)]
    return {
        "accuracy": float(accuracy_score(*flat)),
        "f1": float(f1_score(*flat, average="macro", zero_division=0)),
    }


def _read_conll(path: Path, faults: Faults) -> Iterator[Sentence]:
    tokens: list[str] = []
    tags: list[str] = []
    begin = columns = 0

    def finish() -> Iterator[Sentence]:
        if tokens:
            yield Sentence(path, begin, tuple(tokens), tuple(tags))
            tokens.clear()
            tags.clear()

    for number, line in read_lines(path, faults):
        if not line.strip():
            yield from finish()
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        columns = columns or len(cells)
        if len(cells) < 2 or not cells[0] or not cells[-1].strip():
            faults.add(path, number, f"expected a token and its tag; found {show(line)}")
        elif len(cells) != columns:
            faults.add(
                path, number, f"expected {columns} columns, as in earlier lines; found {len(cells)}: {show(line)}"
            )
        elif cells[0] != "-DOCSTART-":  # CoNLL-2003's mark between documents
            begin = begin if tokens else number
            tokens.append(cells[0])
            tags.append(cells[-1].strip())
    yield from finish()


def _read_objects(path: Path, faults: Faults) -> Iterator[Sentence]:
    for number, value in read_json_lines(path, faults):
        tokens: Any = value.get("tokens")
        tags: Any = value.get("tags")
        wrong = [
            f"{name}: expected a list of strings; found {show(given)}"
            for name, given in (("tokens", tokens), ("tags", tags))
            if not isinstance(given, list) or not given or not all(isinstance(item, str) and item for item in given)
        ]
        if wrong:
            faults.add(path, number, "; ".join(wrong))
        elif len(tokens) != len(tags):
            faults.add(path, number, f"expected a tag for each token; found {len(tokens)} tokens, {len(tags)} tags")
        else:
            yield Sentence(path, number, tuple(tokens), tuple(tags))


def _is_letter(char: str) -> bool:
    return char.isalnum() and not "\u2e80" <= char <= "\U0003ffff"


def _order(tag: str) -> tuple[bool, str, int]:
    match = _ENTITY.fullmatch(tag)
    return (tag != _OUTSIDE, match[2], "BIES".index(match[1])) if match else (tag != _OUTSIDE, tag, 0)


def _list(labels: Sequence[str]) -> str:
    return ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")


def _merge(tags: Sequence[str]) -> str:
    """The tag of a piece that stands for all these tokens: the first's, but for entities that end in it."""
    first, last = _ENTITY.fullmatch(tags[0]), _ENTITY.fullmatch(tags[-1])
    if len(tags) > 1 and first and last and last[1] == "E":
        return ("S-" if first[1] == "B" else "E-") + first[2]
    return tags[0]


def _spread(tag: str, count: int) -> list[str]:
    """The tags of `count` tokens that one piece stands for."""
    match = _ENTITY.fullmatch(tag)
    if count == 1 or not match:
        return [tag] * count
    kind, name = match.groups()
    first = {"S": "B", "E": "I"}.get(kind, kind)
    last = "E" if kind in "ES" else "I"
    return [f"{first}-{name}", *[f"I-{name}"] * (count - 2), f"{last}-{name}"]
