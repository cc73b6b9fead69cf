"""One opened artifact as a server sees it: texts in, answers out, through a batcher that callers share."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from yizhi.choices import TextPooling
from yizhi.errors import InputError
from yizhi.model.label_heads import ANSWER, SEQUENCE, TOKENS
from yizhi.model.spec import SPLADE, Pooling
from yizhi.release.artifact import DESCRIPTION
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import Computer, Request, Task
from yizhi.runtimes.classifier import Classifier
from yizhi.runtimes.embeddings import Embedder
from yizhi.runtimes.fill_mask import FillMask
from yizhi.runtimes.reader import Reader
from yizhi.runtimes.reranker import RANKING_LABELS, Reranker
from yizhi.runtimes.tagger import Tagger
from yizhi.runtimes.tasks import FILL_MASK, REPLACED
from yizhi.runtimes.tokenization import Tokenizer, TooLong
from yizhi.serving.admission import NOT_CHECKED, Checked
from yizhi.serving.batcher import Batcher
from yizhi.serving.limits import Limits
from yizhi.serving.refusals import INVALID, TOO_LARGE, TOO_LONG, Refused
from yizhi.storage.digests import sha256_of_file

T = TypeVar("T")

# What a request can ask of a model, by the artifact's task; vectors come from all but SPLADE's.
EMBED, PREDICT, RERANK, FILL, TAG, READ = "embed", "predict", "rerank", "fill-mask", "tag", "answer"
MOST_TOKENS = Limits().tokens
# Threads that tokenize: more than one, so that a long text does not keep short ones waiting.
TEXT_WORKERS = 4
# Characters of a request that take less time than to hand them to another thread: 0.2 ms.
_AT_ONCE = 512
_ABILITIES = {FILL_MASK: FILL, SEQUENCE: PREDICT, TOKENS: TAG, REPLACED: TAG, ANSWER: READ}

# Where to cut a text that is too long; None where that is an error.
Cut = Literal["left", "right"] | None


class Planner(Computer, Protocol):
    """An operator (see `yizhi.runtimes.batching`) with the settings of one request."""

    def plan(self, given: Any, /) -> Task[Any]:
        """Raises InputError for what cannot be used."""


@dataclass(frozen=True)
class Answers:
    """What a model said of each text. tokens: of all its rows, special tokens included and padding not."""

    results: list[Any]
    tokens: int


class ServedModel:
    """An opened artifact under a name. Requests of every caller share its batcher's batches."""

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        batcher: Batcher,
        *,
        prompts: Mapping[str, str] | None = None,
        checked: Checked = NOT_CHECKED,
    ) -> None:
        """prompts: text to put before a text, by the name that a request gives, beside the artifact's own.

        checked: what is known of the artifact's files and answers.
        """
        self.name = name
        self.runtime = runtime
        self.batcher = batcher
        self.prompts = {**runtime.prompts, **(prompts or {})}
        self.checked = checked
        self.tokenizer = Tokenizer.open(runtime.artifact.folder)
        self.task: str = runtime.artifact.description["task"]
        # artifact.json has the sha256 of every other file.
        self.digest = sha256_of_file(runtime.artifact.folder / DESCRIPTION)
        own = runtime.pooling
        # Its vectors are sparse, which no endpoint gives; a mean of its hidden states belongs to no model.
        is_sparse = own is not None and own.mode == SPLADE
        self.pooling = own or Pooling("mean")
        self.labels: list[str] = runtime.artifact.description.get("labels", [])
        self.head = _ABILITIES.get(self.task, EMBED)
        ranks = self.task == SEQUENCE and len(self.labels) <= RANKING_LABELS
        embeds = [] if is_sparse else [EMBED]
        self.abilities = frozenset({self.head, *embeds, *([RERANK] if ranks else [])})
        # Tokenizing and answering leave the event loop free; the tokenizer holds no interpreter lock.
        self._texts = ThreadPoolExecutor(TEXT_WORKERS, f"texts-{name}")
        self._embedders: dict[tuple[str | None, bool], Embedder] = {}

    def suits(self, ability: str) -> int:
        """Where a request names no model: 2 if made for what it asks, 1 for want of another, 0 if only by its name."""
        if ability not in self.abilities:
            return 0
        if ability == EMBED:
            made = self.head == EMBED or self.runtime.pooling is not None
            return 2 if made else int(self.head == FILL)
        if ability in (PREDICT, RERANK):
            return 2 if (len(self.labels) == 1) == (ability == RERANK) else 1
        return 2

    def embedder(self, pooling: TextPooling | None, normalize: bool) -> Embedder:
        """What computes vectors of this kind for every planner of them."""
        key = (pooling, normalize)
        if key not in self._embedders:
            self._embedders[key] = Embedder(self.runtime, self.tokenizer, pooling=pooling, normalize=normalize)
        return self._embedders[key]

    def embed_planner(self, pooling: TextPooling | None, normalize: bool, cut: Cut) -> Embedder:
        """The embedder of one request."""
        tokenizer, long = self._cutting(cut)
        return Embedder(self.runtime, tokenizer, pooling=pooling, normalize=normalize, long=long)

    def _cutting(self, cut: Cut) -> tuple[Tokenizer, Literal["error", "truncate"]]:
        return (self.tokenizer, "error") if cut is None else (self.tokenizer.cutting(cut), "truncate")

    @cached_property
    def base(self) -> Computer:
        """What computes for every planner of this artifact's head, whatever its settings."""
        return HEADS[self.head](self.runtime, self.tokenizer)

    def predict_planner(self, cut: Cut, **settings: Any) -> Planner:
        """The classifier of one request."""
        tokenizer, long = self._cutting(cut)
        return HEADS[PREDICT](self.runtime, tokenizer, long=long, **settings)

    def rerank_planner(self, cut: Cut, raw: bool) -> Reranker:
        """The reranker of one request: what is too long is cut from the documents, never from the query."""
        tokenizer, long = self._cutting(cut)
        return Reranker(self.runtime, tokenizer, raw=raw, long=long)

    def planner(self, **settings: Any) -> Planner:
        """The operator of this artifact's head with a request's settings. Raises InputError for wrong ones."""
        return HEADS[self.head](self.runtime, self.tokenizer, **settings)

    async def answer(
        self, planner: Planner, given: Sequence[Any], computer: Computer | None = None, most: int = MOST_TOKENS
    ) -> Answers:
        """What the planner says of each text, computed by `computer`, or by `base`.

        most: tokens of all texts together. Cancelling drops what has not been computed yet.
        Raises Refused, naming each text that cannot be used, and for more tokens.
        """
        size = sum(map(_count_characters, given))
        tasks = await self._work(size, self._plan, planner, given, most)
        requests = [request for task in tasks for request in task.requests]
        results = await asyncio.wrap_future(self.batcher.submit(computer or self.base, requests))
        tokens = sum(len(request.row.ids) for request in requests)
        return Answers(await self._work(size, _conclude, tasks, results), tokens)

    async def _work(self, size: int, work: Callable[..., T], *given: Any) -> T:
        """What the work gives, done in another thread where so many characters would keep other callers waiting."""
        if size <= _AT_ONCE:
            return work(*given)
        return await asyncio.get_running_loop().run_in_executor(self._texts, work, *given)

    async def compute(self, computer: Computer, requests: Sequence[Request]) -> list[Any]:
        """Requests that need no texts, through the same batches."""
        return await asyncio.wrap_future(self.batcher.submit(computer, requests))

    def tell(self, error: InputError) -> str:
        """An error's text for a client, who is not to know where the artifact lies."""
        told = "; ".join(f"{error.subject}: {fault}" for fault in error.faults)
        return told.replace(str(Path(self.runtime.artifact.folder)), self.name)

    @property
    def precision(self) -> str:
        """The artifact's: fp32 or int8."""
        return str(self.runtime.artifact.description["precision"])

    def describe(self) -> dict[str, Any]:
        """What it is, for those who ask."""
        return {
            "name": self.name,
            "target": self.runtime.artifact.target,
            "precision": self.precision,
            "task": self.task,
            "abilities": sorted(self.abilities),
            "labels": self.labels,
            "pooling": self.pooling.mode,
            "max_length": self.tokenizer.max_length,
            "prompts": sorted(self.prompts),
            "artifact_sha256": self.digest,
            **vars(self.checked),
        }

    def close(self) -> None:
        """Finish what was submitted. The runtime stays its opener's."""
        self.batcher.close()
        self._texts.shutdown()

    def _plan(self, planner: Planner, given: Sequence[Any], most: int) -> list[Task[Any]]:
        """Stops at once where there is too much: windows over a long text are many times its size."""
        tasks, faults, kind, tokens = [], [], TOO_LONG, 0
        for index, text in enumerate(given):
            if _count_characters(text) > most:
                raise Refused(TOO_LARGE, f"expected texts of at most {most:,} characters")
            try:
                tasks.append(planner.plan(text))
            except InputError as error:
                kind = kind if isinstance(error, TooLong) else INVALID
                faults.append((f"text {index + 1} of {len(given)}: " if len(given) > 1 else "") + self.tell(error))
                continue
            tokens += sum(len(request.row.ids) for request in tasks[-1].requests)
            if tokens > most:
                raise Refused(TOO_LARGE, f"expected at most {most:,} tokens in a request; found more")
        if faults:
            raise Refused(kind, "; ".join(faults))
        return tasks


def _count_characters(text: str | Sequence[str]) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _conclude(tasks: Sequence[Task[Any]], results: Sequence[Any]) -> list[Any]:
    left = iter(results)
    return [task.conclude([next(left) for _ in task.requests]) for task in tasks]


HEADS: dict[str, Callable[..., Planner]] = {FILL: FillMask, PREDICT: Classifier, TAG: Tagger, READ: Reader}
