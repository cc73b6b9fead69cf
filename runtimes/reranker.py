"""Scores how relevant documents are to a query: the second step of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.model.label_heads import SEQUENCE
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import EVERY, Request, Task
from yizhi.runtimes.label_operator import LabelOperator
from yizhi.runtimes.scores import sigmoid
from yizhi.runtimes.tokenization import Long, Tokenizer

# One label is the relevance itself; of two, the second says that a document is relevant.
RANKING_LABELS = 2
# What sentence-transformers' CrossEncoder writes into config.json, by the class's last name: whether scores are logits.
_ACTIVATIONS = {"Sigmoid": False, "Identity": True}
_LONGEST_LIST = 20


@dataclass(frozen=True)
class Relevance:
    """How relevant a document is to a query. score: the sigmoid of `logit`, or `logit` itself."""

    score: float
    logit: float


@dataclass(frozen=True)
class Ranked:
    """A document's place in a ranking. index: its number among the given documents, from 0."""

    index: int
    text: str
    score: float
    logit: float


class Reranker(LabelOperator[tuple[str, str], Relevance]):
    """Scores (query, document) pairs with an artifact of task `text-classification` that has one label.

    `logit` is the logit of this label. An artifact may also have two labels. `logit` is then the second logit minus the
    first, and its sigmoid is the second label's softmax. A call scores one pair, `many` scores a list of pairs, and
    `rank` orders one query's documents, best first.
    """

    tasks = (SEQUENCE,)
    purpose = "rank documents"

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer | None = None,
        *,
        raw: bool | None = None,
        long: Long = "truncate",
    ) -> None:
        """Uses the artifact's own tokenizer if `tokenizer` is None.

        raw: scores are the logits, not their sigmoid. None: as `config.json` says in the fields of
        sentence-transformers' CrossEncoder, else the sigmoid, which is CrossEncoder's default.
        long: for a document that is too long for the model: `truncate` cuts it, `error` refuses it, and `windows`, or a
        number of shared tokens, takes its best window (MaxP: Dai & Callan 2019, arXiv:1905.09217). A query is never
        cut.
        Raises InputError, listing every fault, for an artifact of another task, of more than two labels, or of single
        texts.
        """
        super().__init__(runtime, tokenizer, long)
        labels = runtime.artifact.description["labels"]
        faults = []
        if len(labels) > RANKING_LABELS:
            told = ", ".join(map(show, labels[:_LONGEST_LIST]))
            faults.append(
                f"expected one label, or two labels of which the second says relevant; found {len(labels)}: {told}"
            )
        types = int(self._tokenizer.tokenize([("", "")])[0].types.max()) + 1
        if types > (found := runtime.config.type_vocab_size):
            faults.append(f"expected a model for pairs, with {types} token types; found {found}")
        if faults:
            raise InputError(runtime.artifact.folder, [f"cannot {self.purpose}: {fault}" for fault in faults])
        self.raw = _gives_logits(runtime.config.raw) if raw is None else raw

    def plan(self, given: tuple[str, str]) -> Task[Relevance]:
        """The rows to compute for one pair. Raises InputError for a pair that cannot be used."""
        if not isinstance(given, tuple) or len(given) != 2:
            raise InputError("the pair", f"expected a query and a document; found {show(given)}")
        row = self._tokenizer.tokenize([given])[0]
        empty = [name for name, text in zip(("query", "document"), given, strict=True) if not text.strip()]
        if empty:
            raise InputError("the pair", [f"the {name} is empty" for name in empty])
        windows = self._tokenizer.fit(row, self._long, cut=1)
        return Task([Request(window, EVERY, _relevance) for window in windows], self._conclude)

    def rank(self, query: str, documents: Sequence[str], *, top_k: int | None = None) -> list[Ranked]:
        """The `top_k` most relevant documents (None: all), best first. Equal scores keep the order of the documents.

        Raises InputError as `Ranker` does.
        """
        ranker = Ranker(self._runtime, self._tokenizer, documents=documents, top_k=top_k, raw=self.raw, long=self._long)
        return ranker(query)

    def _conclude(self, results: list[float]) -> Relevance:
        """From the logit of each window."""
        logit = max(results)
        return Relevance(logit if self.raw else float(sigmoid(np.array(logit))), logit)


class Ranker(LabelOperator[str, list[Ranked]]):
    """Ranks the same documents for each query, with an artifact that `Reranker` can use."""

    tasks = (SEQUENCE,)
    purpose = "rank documents"

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer | None = None,
        *,
        documents: Sequence[str],
        top_k: int | None = None,
        raw: bool | None = None,
        long: Long = "truncate",
        skip_blank: bool = False,
    ) -> None:
        """documents: every query is read with each of them.

        top_k: how many documents to give; None for all. raw, long: as in `Reranker`.
        skip_blank: leave blank documents out. Otherwise a blank document is a fault.
        Raises InputError, listing every fault, if the settings or the artifact cannot be used.
        """
        super().__init__(runtime, tokenizer, long)
        if isinstance(documents, str) or not documents:
            raise InputError("documents", f"expected a list of texts, one or more; found {show(documents)}")
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError("top_k", f"expected 1 or more; found {top_k!r}")
        self._reranker = Reranker(runtime, self._tokenizer, raw=raw, long=long)
        self._documents = list(documents)
        self._read = [index for index, text in enumerate(self._documents) if text.strip() or not skip_blank]
        self._top_k = top_k

    def plan(self, given: str) -> Task[list[Ranked]]:
        """The rows to compute for one query. Raises InputError for a query, or documents, that cannot be used."""
        if not isinstance(given, str) or not given.strip():
            raise InputError("the query", f"expected a text; found {show(given)}")
        tasks, faults = [], []
        for index in self._read:
            try:
                tasks.append(self._reranker.plan((given, self._documents[index])))
            except InputError as error:
                faults += [f"document {index + 1} of {len(self._documents)}: {fault}" for fault in error.faults]
        if faults:
            more = len(faults) - _LONGEST_LIST
            raise InputError("the query", faults[:_LONGEST_LIST] + ([f"… and {more} more"] if more > 0 else []))

        def conclude(results: list[float]) -> list[Ranked]:
            found = iter(results)
            judged = [task.conclude([next(found) for _ in task.requests]) for task in tasks]
            order = best_first([one.score for one in judged])[: self._top_k]
            return [Ranked(self._read[at], self._documents[self._read[at]], **vars(judged[at])) for at in order]

        return Task([request for task in tasks for request in task.requests], conclude)


def best_first(scores: Sequence[float]) -> list[int]:
    """Indices of scores, the highest score first. Equal scores keep their order."""
    return [int(index) for index in np.argsort(-np.asarray(scores, np.float64), kind="stable")]


def _relevance(logits: NDArray[np.float32]) -> float:
    """From logits [labels]: see `Reranker`."""
    values = logits.astype(np.float64)
    return float(values[-1] - (values[0] if len(values) > 1 else 0))


def _gives_logits(config: Mapping[str, Any]) -> bool:
    """Whether CrossEncoder leaves this model's logits as they are. Raises InputError for other activations."""
    since_4 = config.get("sentence_transformers")
    named = since_4.get("activation_fn") if isinstance(since_4, dict) else None
    named = named or config.get("sbert_ce_default_activation_function")
    if named is None:
        return False
    found = str(named).rpartition(".")[2]
    if found not in _ACTIVATIONS:
        known = " or ".join(f"torch.nn.{name}" for name in _ACTIVATIONS)
        raise InputError("config.json", f"activation of scores: expected {known}; found {show(named)}; or give `raw`")
    return _ACTIVATIONS[found]
