"""Extractive question answering: answers are spans of a context."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.model.label_heads import ANSWER
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import EVERY, Request, Task
from yizhi.runtimes.label_operator import LabelOperator
from yizhi.runtimes.tokenization import Long, Row, Tokenizer, text_parts


@dataclass(frozen=True)
class Answer:
    """Characters `start` … `end` − 1 of the context, and their text. *No answer* is "" at None.

    score: the answer's probability among all spans that the settings allow, and *no answer* if it is judged, too.
    """

    text: str
    start: int | None
    end: int | None
    score: float


class Reader(LabelOperator[tuple[str, str], list[Answer]]):
    """Answers a question from a context, given as (question, context), with a `question-answering` artifact.

    A call gives the best spans of the context, best first. The value of a span from token i to token j is start logit i
    + end logit j. Its probability is the softmax of the value over all spans of at most `max_answer_tokens` tokens. A
    long context is read in windows, with the question before each. A span in several windows counts with its best
    value, as in the BERT paper's code (`run_squad.py`). Spans begin and end with tokens. They may overlap.
    """

    tasks = (ANSWER,)
    purpose = "answer questions"

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer | None = None,
        *,
        top_k: int = 1,
        max_answer_tokens: int = 30,
        no_answer: float | None = None,
        long: Long = "windows",
    ) -> None:
        """Uses the artifact's own tokenizer if `tokenizer` is None.

        top_k: the number of spans. max_answer_tokens: the longest span.
        no_answer: also judge that the context has no answer, as SQuAD 2.0 does (Rajpurkar et al. 2018). Its value is
        the sum of the logits of [CLS], the least of all windows, minus `no_answer` (`null_score_diff_threshold` there).
        Every result then has *no answer* at its rank, in addition to the `top_k` spans.
        long: `error`, `truncate`, `windows` or a number of shared tokens, for a context that is too long for the model.
        A question is never cut.
        Raises InputError, listing every fault, for settings out of range, and for an artifact of another task.
        """
        super().__init__(runtime, tokenizer, long)
        faults = [
            f"{name}: expected 1 or more; found {value!r}"
            for name, value in {"top_k": top_k, "max_answer_tokens": max_answer_tokens}.items()
            if type(value) is not int or value < 1
        ]
        if no_answer is not None and (type(no_answer) not in (int, float) or not np.isfinite(no_answer)):
            faults.append(f"no_answer: expected a finite number; found {no_answer!r}")
        if faults:
            raise InputError("answers", faults)
        self._top_k = top_k
        self._longest = max_answer_tokens
        self._threshold = no_answer

    def plan(self, given: tuple[str, str]) -> Task[list[Answer]]:
        """The rows to compute for one question. Raises InputError for a question or context that cannot be used."""
        if not isinstance(given, tuple) or len(given) != 2:
            raise InputError("the question", f"expected a question and a context; found {show(given)}")
        row = self._tokenizer.tokenize([given])[0]
        context = text_parts(row)[1]
        if not len(context):
            raise InputError("the question", f"expected a context with words; found {show(given[1])}")
        windows = self._tokenizer.fit(row, self._long, cut=1)

        def conclude(results: list[NDArray[np.float64]]) -> list[Answer]:
            """From each window's logits [1 + context tokens, 2], [CLS] first."""
            spans = self._score_spans(windows, results, context)
            null = None
            if self._threshold is not None:
                null = min(result[0].sum() for result in results) - self._threshold
            return self._rank(given[1], row.offsets[context], spans, null)

        return Task([self._request(window) for window in windows], conclude)

    def _request(self, window: Row) -> Request:
        wanted = np.append(0, text_parts(window)[1])
        return Request(window, EVERY, lambda logits: logits[wanted].astype(np.float64))

    def _score_spans(
        self, windows: list[Row], results: list[NDArray[np.float64]], context: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The value of the span of l + 1 tokens from context token i, [i, l]: its best of all windows, or −inf."""
        spans = np.full((len(context), min(self._longest, len(context))), -np.inf)
        for window, result in zip(windows, results, strict=True):
            begin = int(window.places[text_parts(window)[1][0]] - context[0])
            worth = worth_of_spans(result[1:], spans.shape[1])
            here = spans[begin : begin + len(worth), : worth.shape[1]]
            np.maximum(here, worth, out=here)
        return spans

    def _rank(
        self, text: str, offsets: NDArray[np.int64], spans: NDArray[np.float64], null: float | None
    ) -> list[Answer]:
        """The best spans; offsets [C, 2] are the context tokens' characters."""
        worth = spans.ravel()
        highest = max(worth.max(), -np.inf if null is None else null)
        total = np.exp(worth - highest).sum() + (0 if null is None else np.exp(null - highest))
        answers: list[Answer] = []
        for index in np.argsort(-worth, kind="stable"):
            if worth[index] == -np.inf or len(answers) == self._top_k:
                break
            begin, further = divmod(int(index), spans.shape[1])
            found = text[int(offsets[begin, 0]) : int(offsets[begin + further, 1])]
            start = int(offsets[begin, 0]) + len(found) - len(found.lstrip())
            if found.strip():  # a piece may be a space, or begin with one
                end = start + len(found.strip())
                answers.append(Answer(text[start:end], start, end, float(np.exp(worth[index] - highest) / total)))
        if null is not None:
            nothing = Answer("", None, None, float(np.exp(null - highest) / total))
            answers.insert(sum(answer.score >= nothing.score for answer in answers), nothing)
        return answers


def worth_of_spans(logits: NDArray, longest: int) -> NDArray[np.float64]:
    """Start logit i + end logit i + l, float64 [i, l], for spans of at most `longest` tokens; −inf past the last token.

    logits: [C, 2] of a context's tokens.
    """
    starts, ends = logits.astype(np.float64).T
    worth = np.full((len(starts), min(longest, len(starts))), -np.inf)
    for further in range(worth.shape[1]):
        worth[: len(starts) - further, further] = starts[: len(starts) - further] + ends[further:]
    return worth
