"""How relevant documents are to a query, read together with it: the second step of a search."""

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
    """A document's place among others. index: in the documents that were given, from 0."""

    index: int
    text: str
    score: float
    logit: float


class Reranker(LabelOperator[tuple[str, str], Relevance]):
    """Scores (query, document) pairs with an artifact of task `text-classification` that has one label.

    `logit` is that label's. Of an artifact with two labels it is the second's less the first's, whose sigmoid is the
    second's softmax. A call scores one pair, `many` a list of them, `rank` one query's documents, best first.
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
        """The artifact's own tokenizer if none is given.

        raw: scores are the logits, not their sigmoid. If None, as the artifact's `config.json` says in the fields of
        sentence-transformers' CrossEncoder, and the sigmoid where it says nothing, which is CrossEncoder's default.
        long: what to do with a document beyond the model's positions: `truncate` it, `error`, or read it in windows and
        take the best (MaxP: Dai & Callan 2019, arXiv:1905.09217). A query is never cut.
        Raises InputError, listing every fault, for an artifact of another task, of more labels, or of single texts.
        """
        super().__init__(runtime, tokenizer, long)
        labels = runtime.artifact.description["labels"]
        faults = []
        if len(labels) > RANKING_LABELS:
            told = ", ".join(map(show, labels[:_LONGEST_LIST]))
            faults.append(f"expected one label, or two of which the second says relevant; found {len(labels)}: {told}")
        types = int(self._tokenizer.tokenize([("", "")])[0].types.max()) + 1
        if types > (found := runtime.config.type_vocab_size):
            faults.append(f"it reads single texts: a pair has {types} token types, and the model {found}")
        if faults:
            raise InputError(runtime.artifact.folder, [f"cannot {self.purpose}: {fault}" for fault in faults])
        self.raw = _gives_logits(runtime.config.raw) if raw is None else raw

    def plan(self, given: tuple[str, str]) -> Task[Relevance]:
        """What one pair asks of the model. Raises InputError for what cannot be used."""
        if not isinstance(given, tuple) or len(given) != 2:
            raise InputError("the pair", f"expected a query and a document; found {show(given)}")
        row = self._tokenizer.tokenize([given])[0]
        empty = [name for name, text in zip(("query", "document"), given, strict=True) if not text.strip()]
        if empty:
            raise InputError("the pair", [f"the {name} is empty" for name in empty])
        windows = self._tokenizer.fit(row, self._long, cut=1)
        return Task([Request(window, EVERY, _relevance) for window in windows], self._conclude)

    def rank(self, query: str, documents: Sequence[str], *, top_k: int | None = None) -> list[Ranked]:
        """The most relevant documents, all if `top_k` is None, best first; equals in the order they came in.

        Raises InputError as `Ranker` does.
        """
        ranker = Ranker(self._runtime, self._tokenizer, documents=documents, top_k=top_k, raw=self.raw, long=self._long)
        return ranker(query)

    def _conclude(self, results: list[float]) -> Relevance:
        """From the logit of each window."""
        logit = max(results)
        return Relevance(logit if self.raw else float(sigmoid(np.array(logit))), logit)


class Ranker(LabelOperator[str, list[Ranked]]):
    """Ranks the same documents for each query that comes, with a `Reranker`'s artifact: queries in, places out."""

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
        """documents: every query is read with each. top_k: how many to give, all if None. raw, long: as `Reranker`.

        skip_blank: give a blank document no place; unless so, it is a fault.
        Raises InputError, listing every fault, where these or the artifact cannot be used.
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
        """What one query asks of the model. Raises InputError for a query, or documents, that cannot be used."""
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
    """Indices of scores, the highest first; equals in the order they came in."""
    return [int(index) for index in np.argsort(-np.asarray(scores, np.float64), kind="stable")]


def _relevance(logits: NDArray[np.float32]) -> float:
    """From logits [labels]: see `Reranker`."""
    values = logits.astype(np.float64)
    return float(values[-1] - (values[0] if len(values) > 1 else 0))


def _gives_logits(config: Mapping[str, Any]) -> bool:
    """Whether CrossEncoder leaves this model's logits as they are. Raises InputError for what it does besides."""
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
