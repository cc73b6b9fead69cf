"""A user's answers for a text: the oracle's, and an artifact's from its own files.

Each answer is one that a command prints: the words that fill a mask, labels, the tag of each word, the span that
answers, or a vector. A tokenizer, a vocabulary, labels and a pooling may each be right and still not fit together.
Answers show this.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.model.label_heads import ANSWER, REGRESSION, SEQUENCE, TOKENS
from yizhi.reading.sentences import CHINESE, ENGLISH
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.classifier import Classifier
from yizhi.runtimes.embeddings import Embedder
from yizhi.runtimes.fill_mask import FillMask
from yizhi.runtimes.reader import Reader
from yizhi.runtimes.tagger import WordLabels
from yizhi.runtimes.tasks import FILL_MASK
from yizhi.runtimes.tokenization import Tokenizer

# A score is a probability, or a value of a regression, which is compared in proportion. float32: logits err by 1e-5 of
# at most some tens, and a probability by less than its logits. Others: Pinsker's inequality allows √(KL / 2) at the
# KL that the gates allow of the worst hundredth; a wrong file moves scores by nearly 1.
SCORE = {"fp32": 1e-3}
COARSE_SCORE = 0.25
# Of a vector's length. Others: what a cosine of 0.97 leaves.
VECTOR = {"fp32": 1e-4}
COARSE_VECTOR = 0.25

_TEXTS = (*CHINESE[:3], *ENGLISH[:2], "BERT base Chinese 和 RoBERTa 在 GPU 上跑 3.5 次")
_CANDIDATES = 5
_MOST_FAULTS = 3


@dataclass(frozen=True)
class Said:
    """The best answers in one place of a text. place: the text, or a word or mask in it. scores: by answer."""

    place: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class TextAnswer:
    """A text and its answers. text: one text, or a question and its context. vector: of the whole text."""

    text: tuple[str, ...]
    said: tuple[Said, ...] = ()
    vector: tuple[float, ...] = ()


def make_answers(runtime: Runtime, tokenizer: Tokenizer) -> tuple[TextAnswer, ...]:
    """A runtime's answers for those everyday texts that its tokenizer can take whole."""
    asked = everyday_questions(runtime.artifact.description["task"], tokenizer)
    # One at a time: the oracle's time is that of its tokens, padding included.
    return tuple(answer for question in asked for answer in ask(runtime, tokenizer, [question]))


def everyday_questions(task: str, tokenizer: Tokenizer) -> list[tuple[str, ...]]:
    """The questions for every artifact of this task and tokenizer."""
    asked = questions_of(task, _TEXTS, tokenizer)
    return [text for text in asked if len(tokenizer.tokenize(["".join(text)])[0].ids) < tokenizer.max_length]


def questions_of(task: str, texts: Sequence[str], *tokenizers: Tokenizer) -> list[tuple[str, ...]]:
    """Texts in the form of a task: masked where every tokenizer sees the mask, or asked of the text before."""
    if task == ANSWER:
        return list(zip(texts[1:], texts, strict=False))
    if task != FILL_MASK:
        return [(text,) for text in texts]
    masks = {tokenizer.vocab[tokenizer.mask_id] for tokenizer in tokenizers}
    if len(masks) != 1:
        return []
    (mask,) = masks
    masked = [text if mask in text else f"{text[:2]}{mask}{text[3:]}" for text in texts]
    return [(text,) for text in masked if all(one.mask_id in one.tokenize([text])[0].ids for one in tokenizers)]


def ask(runtime: Runtime, tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]]) -> tuple[TextAnswer, ...]:
    """A runtime's answers for these texts, by its task."""
    task = runtime.artifact.description["task"]
    firsts = [text[0] for text in texts]
    if task == FILL_MASK:
        fill = FillMask(runtime, tokenizer, top_k=min(_CANDIDATES, len(tokenizer.vocab)))
        said = [
            [Said(f"mask {number}", {one.token: one.score for one in mask}) for number, mask in enumerate(found)]
            for found in fill.many(firsts)
        ]
    elif task == SEQUENCE:
        labels = Classifier(runtime, tokenizer).many(firsts)
        said = [[Said("", {one.label: one.score for one in found})] for found in labels]
    elif task == TOKENS:
        words = WordLabels(runtime, tokenizer).many(firsts)
        said = [
            [Said(f"word {number}", {one.label: one.score for one in best}) for number, best in enumerate(found)]
            for found in words
        ]
    elif task == ANSWER:
        spans = Reader(runtime, tokenizer, top_k=_CANDIDATES).many([(text[0], text[1]) for text in texts])
        said = [[Said("", {f"{one.start}-{one.end} {one.text}": one.score for one in found})] for found in spans]
    else:
        vectors = Embedder(runtime, tokenizer)(firsts)
        return tuple(
            TextAnswer(text, vector=tuple(vector.tolist())) for text, vector in zip(texts, vectors, strict=True)
        )
    return tuple(TextAnswer(text, tuple(found)) for text, found in zip(texts, said, strict=True))


def check_answers(runtime: Runtime, expected: Sequence[TextAnswer], precision: str) -> list[str]:
    """Differences between an artifact's answers and the oracle's, a line each. precision: as in `verify`."""
    if not expected:
        return []
    try:
        found = ask(runtime, Tokenizer.open(runtime.artifact.folder), [one.text for one in expected])
    except InputError as error:
        return [f"text: {error.subject}: {fault}" for fault in error.faults]
    is_regression = runtime.artifact.description.get("problem_type") == REGRESSION
    limits = SCORE.get(precision, COARSE_SCORE), VECTOR.get(precision, COARSE_VECTOR)
    wrong = [
        f"text: {show(' / '.join(one.text))}: {fault}"
        for one, other in zip(expected, found, strict=True)
        if (fault := next(_compare(one, other, *limits, is_regression), None))
    ]
    return wrong[:_MOST_FAULTS] + (
        [f"text: and {len(wrong) - _MOST_FAULTS} more answers"] if len(wrong) > _MOST_FAULTS else []
    )


def _compare(
    expected: TextAnswer, found: TextAnswer, score: float, vector: float, is_regression: bool
) -> Iterator[str]:
    if [one.place for one in expected.said] != [one.place for one in found.said]:
        places = ([one.place for one in answer.said] for answer in (expected, found))
        yield f"expected answers at {show(next(places))}; found {show(next(places))}"
    for one, other in zip(expected.said, found.said, strict=False):
        # What is not among the best scores at most what the last of them does.
        least = min(other.scores.values(), default=0.0)
        for name, value in one.scores.items():
            got = other.scores.get(name, least)
            if not abs(got - value) <= score * (max(1.0, abs(value)) if is_regression else 1.0):
                where = f"at {one.place}: " if one.place else ""
                yield f"{where}expected {_say(one.scores)}; found {_say(other.scores)}"
                break
    if expected.vector or found.vector:
        yield from _compare_vectors(np.array(expected.vector), np.array(found.vector), vector)


def _compare_vectors(expected: NDArray[np.float64], found: NDArray[np.float64], most: float) -> Iterator[str]:
    if expected.shape != found.shape:
        yield f"expected a vector of {len(expected)}; found {len(found)}"
        return
    away = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    if not away <= most:
        yield f"vector: expected within {most:g} of its length; found {away:.3g}"


def _say(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{show(name)} {score:.3f}" for name, score in list(scores.items())[:2])
