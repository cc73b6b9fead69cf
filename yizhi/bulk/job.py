"""A bulk run as plain values, and one window of it: the same on every engine."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from yizhi.bulk.operators import OperatorSpec, RowOperator
from yizhi.bulk.writers import check_output
from yizhi.errors import InputError
from yizhi.runtimes.batching import TOKENS, WINDOW, Task, run_tasks
from yizhi.storage.records import READ_AS, STDIN, Record, Source


@dataclass(frozen=True)
class UnusableRow:
    """A row of another file than the input. Every answer is made without it. number: as in `Record`."""

    path: str
    number: int
    fault: str


@dataclass(frozen=True)
class Job:
    """The work of a run.

    operator: the work for each row. Only the same operator on the same input can resume a run.
    earlier: unusable rows that were found before the first row is read.
    window: rows sorted by length together. tokens: in a batch, including padding.
    errors: the file that lists unusable rows; None for a message each. strict: stop at the first.
    """

    source: Source
    output: Path
    operator: OperatorSpec
    earlier: tuple[UnusableRow, ...] = ()
    errors: Path | None = None
    strict: bool = False
    overwrite: bool = False
    window: int = WINDOW
    tokens: int = TOKENS

    def check(self) -> None:
        """Raise InputError, before anything is written, if the job cannot be done."""
        check_output(self.output, self.operator.is_vector)
        files = [self.output] if self.errors is None else [self.output, self.errors]
        for path in files:
            if not path.parent.is_dir():
                raise InputError(path.parent, "no such folder")
            if path.is_dir():
                raise InputError(path, "is a folder; give the name of a file")
            if self.source.path != STDIN and path.resolve() == Path(self.source.path).resolve():
                raise InputError(path, "is the input; write to another file")
        if len({path.resolve() for path in files}) < len(files):
            raise InputError(self.output, "is both `output` and `errors`")
        for path in files:
            if path.exists() and not self.overwrite and not self.state.exists():
                raise InputError(path, "already exists; give another name, or `overwrite`")

    @property
    def working(self) -> Path:
        """The unfinished output."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def state(self) -> Path:
        """The file that records how much of it counts."""
        return self.output.with_name(self.output.name + ".progress")

    def identity(self) -> dict[str, Any]:
        """The values that must be equal to resume a run."""
        errors = None if self.errors is None else str(self.errors.resolve())
        return {"input": self.source.identity(), "settings": self.operator.identity(), "errors": errors}

    def read(self, skip: int) -> Iterator["Window"]:
        """The input's rows after the first `skip`, a window at a time."""
        with self.source.open(READ_AS) as reader:
            records = iter(reader)
            for _ in islice(records, skip):
                pass
            while group := list(islice(records, self.window)):
                yield Window(group, reader.done)

    def answer(self, operator: RowOperator, window: "Window") -> "Answers":
        """The operator's answer for each row. With `strict`, nothing is computed if a row cannot be used."""
        tasks: dict[int, Task[Any]] = {}
        faults = {}
        for record in window.records:
            try:
                if record.text is None:
                    raise InputError("the row", record.fault)
                tasks[record.number] = operator.plan(record.text)
            except InputError as error:
                faults[record.number] = "; ".join(error.faults)
                if self.strict:
                    return Answers({}, faults, window.done)
        results = run_tasks(operator, tasks.values(), window=self.window, tokens=self.tokens)
        rows: dict[int, dict[str, Any] | None] = dict.fromkeys(record.number for record in window.records)
        for number, result in zip(tasks, results, strict=True):
            rows[number] = self.operator.make_row(result)
        return Answers(rows, faults, window.done)


@dataclass(frozen=True)
class Window:
    """Rows that are sorted by length together. done: the share of the input read with them, if it is known."""

    records: list[Record]
    done: float | None


@dataclass(frozen=True)
class Answers:
    """The answers of a window's rows.

    rows: number -> columns of the output row but `row`; None for a row that could not be used, whose fault is in
    `faults`.
    """

    rows: dict[int, dict[str, Any] | None]
    faults: dict[int, str]
    done: float | None


class Engine(Protocol):
    """Does the work of a job: in this process, or on a cluster."""

    def __call__(self, job: Job, skip: int) -> AbstractContextManager[Iterator[Answers]]:
        """Every window after the first `skip` rows, in the input's order.

        Raises InputError for work that cannot be done, on entering if possible.
        """


@contextmanager
def answer_here(job: Job, skip: int) -> Iterator[Iterator[Answers]]:
    """The engine that answers in this process."""
    with job.operator.open() as operator:
        yield (job.answer(operator, window) for window in job.read(skip))
