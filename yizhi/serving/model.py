"""One opened artifact in a server: texts in, answers out, through a batcher that all callers share."""

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
        """Raises InputError for input that cannot be used."""


@dataclass(frozen=True)
class Answers:
    """A model's answers for each text. tokens: of all rows, including special tokens and without padding."""

    results: list[Any]
    tokens: int


class ServedModel:
    """An opened artifact with a name. Requests of all callers share its batches."""

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        batcher: Batcher,
        *,
        prompts: Mapping[str, str] | None = None,
        checked: Checked = NOT_CHECKED,
    ) -> None:
        """prompts: texts to put before a text, by the name in a request, in addition to the artifact's own prompts.

        checked: the known facts of the artifact's files and answers.
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
        """For requests that name no model: 2 if made for the ability, 1 if usable, 0 if only usable by name."""
        if ability not in self.abilities:
            return 0
        if ability == EMBED:
            made = self.head == EMBED or self.runtime.pooling is not None
            return 2 if made else int(self.head == FILL)
        if ability in (PREDICT, RERANK):
            return 2 if (len(self.labels) == 1) == (ability == RERANK) else 1
        return 2

    def embedder(self, pooling: TextPooling | None, normalize: bool) -> Embedder:
        """The computer of vectors of this kind, shared by all its planners."""
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
        """The computer of this artifact's head, shared by all its planners."""
        return HEADS[self.head](self.runtime, self.tokenizer)

    def predict_planner(self, cut: Cut, **settings: Any) -> Planner:
        """The classifier of one request."""
        tokenizer, long = self._cutting(cut)
        return HEADS[PREDICT](self.runtime, tokenizer, long=long, **settings)

    def rerank_planner(self, cut: Cut, raw: bool) -> Reranker:
        """The reranker of one request. Documents that are too long are cut. A query is never cut."""
        tokenizer, long = self._cutting(cut)
        return Reranker(self.runtime, tokenizer, raw=raw, long=long)

    def planner(self, **settings: Any) -> Planner:
        """The operator of this artifact's head with a request's settings. Raises InputError for invalid settings."""
        return HEADS[self.head](self.runtime, self.tokenizer, **settings)

    async def answer(
        self, planner: Planner, given: Sequence[Any], computer: Computer | None = None, most: int = MOST_TOKENS
    ) -> Answers:
        """The planner's answer for each text, computed by `computer`, or by `base`.

        most: the limit of tokens of all texts together. Cancelling drops requests that are not computed yet.
        Raises Refused, naming each text that cannot be used, and for more tokens than the limit.
        """
        size = sum(map(_count_characters, given))
        tasks = await self._work(size, self._plan, planner, given, most)
        requests = [request for task in tasks for request in task.requests]
        results = await asyncio.wrap_future(self.batcher.submit(computer or self.base, requests))
        tokens = sum(len(request.row.ids) for request in requests)
        return Answers(await self._work(size, _conclude, tasks, results), tokens)

    async def _work(self, size: int, work: Callable[..., T], *given: Any) -> T:
        """The work's result. Work on many characters runs in another thread, so that other callers do not wait."""
        if size <= _AT_ONCE:
            return work(*given)
        return await asyncio.get_running_loop().run_in_executor(self._texts, work, *given)

    async def compute(self, computer: Computer, requests: Sequence[Request]) -> list[Any]:
        """Compute requests that have no texts, in the same batches."""
        return await asyncio.wrap_future(self.batcher.submit(computer, requests))

    def tell(self, error: InputError) -> str:
        """An error's text for a client, without the artifact's path."""
        told = "; ".join(f"{error.subject}: {fault}" for fault in error.faults)
        return told.replace(str(Path(self.runtime.artifact.folder)), self.name)

    @property
    def precision(self) -> str:
        """The artifact's: fp32 or int8."""
        return str(self.runtime.artifact.description["precision"])

    def describe(self) -> dict[str, Any]:
        """The model's facts, for information endpoints."""
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
        """Finish the submitted requests. The runtime's opener closes the runtime."""
        self.batcher.close()
        self._texts.shutdown()

    def _plan(self, planner: Planner, given: Sequence[Any], most: int) -> list[Task[Any]]:
        """Plan each text. Stops at the limit: windows over a long text are many times its size."""
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
