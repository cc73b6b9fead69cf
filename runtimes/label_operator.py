"""What classifiers, taggers and readers share: rows through the head."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from yizhi.errors import InputError
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import TOKENS, Request, Task, run_tasks
from yizhi.runtimes.tasks import require_task
from yizhi.runtimes.tokenization import Long, Tokenizer, check_long, pad

Given = TypeVar("Given", contravariant=True)
Result = TypeVar("Result", covariant=True)


class LabelOperator(Generic[Given, Result]):
    """An operator (see `batching`) on an artifact whose head gives labels. Thread-safe if the runtime is.

    Subclasses name the `tasks` that they can use and their `purpose`, and implement `plan`. Each request's `reduce`
    gets the logits of its row: [labels], or [T, labels] if the head reads tokens.
    """

    tasks: ClassVar[tuple[str, ...]]
    purpose: ClassVar[str]
    reads_windows: ClassVar[bool] = True

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer | None, long: Long) -> None:
        """Raises InputError for an artifact of another task, and for an invalid `long`."""
        require_task(runtime, self.purpose, *self.tasks)
        check_long(long, windows=self.reads_windows)
        self._runtime = runtime
        self._tokenizer = tokenizer or Tokenizer.open(runtime.artifact.folder)
        self._long: Long = long
        self._by_token = runtime.artifact.description["outputs"]["logits"][1] == "length"

    def __call__(self, given: Given) -> Result:
        """The answer for one text. Raises InputError for a text that cannot be used."""
        return self.many([given])[0]

    def many(self, given: Sequence[Given], *, tokens: int = TOKENS) -> list[Result]:
        """The answers of many texts, computed in batches of at most `tokens` tokens."""
        if isinstance(given, str):
            raise InputError("texts", "expected a list of texts; found one text")
        return list(run_tasks(self, map(self.plan, given), tokens=tokens))

    def plan(self, given: Given) -> Task[Result]:
        """The rows to compute for one text. Raises InputError for a text that cannot be used."""
        raise NotImplementedError

    def compute(self, requests: Sequence[Request]) -> list[Any]:
        """One batch: each request's `reduce` of its logits, without padding."""
        logits = self._runtime.run(pad([request.row for request in requests], self._tokenizer.pad_id), ["logits"])
        return [
            request.reduce(row[: len(request.row.ids)] if self._by_token else row)
            for request, row in zip(requests, logits["logits"], strict=True)
        ]
