"""Extractive question answering from SQuAD's layout, in which CMRC 2018 is published too."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.model.label_heads import ANSWER
from yizhi.runtimes.reader import worth_of_spans
from yizhi.runtimes.tokenization import Row, Tokenizer, text_parts
from yizhi.storage.json_files import read_json_object
from yizhi.training import cmrc
from yizhi.training.features import Feature
from yizhi.training.tasks.faults import Faults

# Tokens of an answer at most, as transformers' and BERT's own scripts have it.
LONGEST_ANSWER = 30
_IDENTITY = re.compile(r'"id"\s*:\s*"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Question:
    """A question, its context, and the context's answers: the text and the first character of each."""

    path: Path
    line: int | None
    identity: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


class SquadReader:
    """Reads `data[].paragraphs[].{context, qas[].{id, question, answers[].{text, answer_start}}}`."""

    def read(self, path: Path, faults: Faults) -> list[Question]:
        """Every question of a file. An answer that is not at its given place is a fault."""
        known, questions = len(faults), []
        try:
            paragraphs = _paragraphs(read_json_object(path))
            lines = _find_lines(path)
            for paragraph in paragraphs:
                questions += _read_paragraph(path, paragraph, lines, faults)
        except InputError as error:
            for fault in error.faults:
                faults.add(path, None, fault)
        if not questions and len(faults) == known:
            faults.add(path, None, "has no question")
        return questions

    def make_task(self, examples: Sequence[Question]) -> "Reading":
        """The task. Reading has no labels to find."""
        return Reading()

    def task_of(self, labels: Sequence[str], problem_type: str | None) -> "Reading":
        """The task. Reading has no labels to find."""
        return Reading()


@dataclass(frozen=True)
class Reading:
    """The start and the end of an answer, scored as CMRC 2018 does."""

    labels: tuple[str, ...] = ("start", "end")
    name = ANSWER
    best = "f1"

    def config(self) -> Mapping[str, Any]:
        """Two labels, as transformers' class needs them. Their names mean nothing."""
        return {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}

    def check(self, examples: Sequence[Question], faults: Faults) -> None:
        """Nothing: `SquadReader.read` has checked the answers."""

    def encode(self, examples: Sequence[Question], tokenizer: Tokenizer, faults: Faults) -> list[Feature]:
        """Question and context, a long one in windows that overlap.

        A window's targets are the first answer's tokens, or [CLS] if the answer is not wholly inside, as in BERT's own
        SQuAD script.
        """
        rows = tokenizer.tokenize([(example.question, example.context) for example in examples])
        features = []
        for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
            try:
                windows = tokenizer.fit(row, "windows", cut=1)
            except InputError as error:
                for fault in error.faults:
                    faults.add(example.path, example.line, f"{example.identity}: {fault}")
                continue
            if not len(text_parts(row)[1]):
                faults.add(example.path, example.line, f"{example.identity}: no token is left of its context")
                continue
            answer = _find_answer(row, *example.answers[0])
            for window in windows:
                start, end = _find_span(window, answer)
                features.append(Feature(window, number, targets={"start_positions": start, "end_positions": end}))
        return features

    def score(
        self, examples: Sequence[Question], features: Sequence[Feature], logits: Sequence[NDArray]
    ) -> dict[str, float]:
        """CMRC's F1 and exact match, 0 … 1."""
        answers = self.predict(examples, features, logits)
        pairs = [(answer, [text for text, _ in e.answers]) for answer, e in zip(answers, examples, strict=True)]
        return {
            "f1": float(np.mean([cmrc.f1(*pair) for pair in pairs])),
            "exact_match": float(np.mean([cmrc.exact_match(*pair) for pair in pairs])),
        }

    def guess(self, trained_on: Sequence[Question], examples: Sequence[Question]) -> dict[str, float]:
        """Empty: an answer is a place in a text, and no place is likeliest in all texts."""
        return {}

    def predict(
        self, examples: Sequence[Question], features: Sequence[Feature], logits: Sequence[NDArray]
    ) -> list[str]:
        """Each question's most likely answer over all its windows; logits [T, 2] each."""
        best: dict[int, tuple[float, str]] = {}
        for feature, scores in zip(features, logits, strict=True):
            total, start, end = best_span(scores, text_parts(feature.row)[1])
            if feature.example not in best or total > best[feature.example][0]:
                first, last = feature.row.offsets[start, 0], feature.row.offsets[end, 1]
                best[feature.example] = (total, examples[feature.example].context[first:last].strip())
        return [best[number][1] for number in range(len(examples))]


def best_span(logits: NDArray, places: NDArray[np.int64]) -> tuple[float, int, int]:
    """The start and end, among these places, with the largest sum of logits [T, 2], and that sum."""
    worth = worth_of_spans(logits[places], LONGEST_ANSWER)
    start, further = np.unravel_index(worth.argmax(), worth.shape)
    return float(worth[start, further]), int(places[start]), int(places[start + further])


def _find_answer(row: Row, answer: str, begin: int) -> NDArray[np.int64]:
    """Positions of an answer's tokens."""
    places = text_parts(row)[1]
    return places[(row.offsets[places, 1] > begin) & (row.offsets[places, 0] < begin + len(answer))]


def _find_span(window: Row, answer: NDArray[np.int64]) -> tuple[int, int]:
    """Positions of an answer's first and last token in a window; 0, 0 if the answer is not wholly inside."""
    inside = np.flatnonzero(np.isin(window.places, answer))
    return (int(inside[0]), int(inside[-1])) if len(inside) == len(answer) > 0 else (0, 0)


def _paragraphs(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    data = value.get("data")
    articles = data if isinstance(data, list) else [None]
    if not all(isinstance(article, dict) and isinstance(article.get("paragraphs"), list) for article in articles):
        raise InputError("data", f"data: expected a list of objects with paragraphs, as in SQuAD; found {show(data)}")
    return [paragraph for article in articles if article for paragraph in article["paragraphs"]]


def _read_paragraph(path: Path, paragraph: Any, lines: Mapping[str, int], faults: Faults) -> list[Question]:
    context = paragraph.get("context") if isinstance(paragraph, dict) else None
    entries = paragraph.get("qas") if isinstance(paragraph, dict) else None
    if not isinstance(context, str) or not context.strip() or not isinstance(entries, list):
        faults.add(path, None, f"paragraphs: expected an object with context and qas; found {show(paragraph)}")
        return []
    questions = []
    for entry in entries:
        identity = str(entry.get("id", "a question without id")) if isinstance(entry, dict) else show(entry)
        line = lines.get(identity)
        question = entry.get("question") if isinstance(entry, dict) else None
        if not isinstance(question, str) or not question.strip():
            faults.add(path, line, f"{identity}: expected a question; found {show(question)}")
            continue
        answers = _read_answers(entry.get("answers"), context)
        if isinstance(answers, str):
            faults.add(path, line, f"{identity}: {answers}")
        else:
            questions.append(Question(path, line, identity, question, context, answers))
    return questions


def _read_answers(given: Any, context: str) -> tuple[tuple[str, int], ...] | str:
    """The answers, or their fault."""
    if not isinstance(given, list) or not given:
        return f"expected one or more answers (unanswerable questions are not supported); found {show(given)}"
    answers = []
    for answer in given:
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
        if not isinstance(text, str) or not text.strip() or isinstance(start, bool) or not isinstance(start, int):
            return f"answers: expected objects with text and answer_start; found {show(answer)}"
        if start < 0 or context[start : start + len(text)] != text:
            found = context.find(text)
            where = f"it is at {found}" if found >= 0 else "the context does not have it"
            return f"answer {show(text)} is not at character {start} of its context: {where}"
        answers.append((text, start))
    return tuple(answers)


def _find_lines(path: Path) -> dict[str, int]:
    """The line of each question's id."""
    with open(path, encoding="utf-8") as file:
        return {match: number for number, line in enumerate(file, start=1) for match in _IDENTITY.findall(line)}
