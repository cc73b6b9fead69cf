"""The same work on Ray Data: one task reads the input's windows, and a pool of actors answers them, in order.

This process still writes the output in the input's order, and the state of a killed run. The local engine's code reads
and answers a window, so the output's bytes are the same.
"""

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yizhi.bulk.job import Answers, Job, Window
from yizhi.cluster import connect, first_line
from yizhi.errors import InputError
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.storage.digests import sha256_of_file
from yizhi.storage.records import STDIN

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True)
class RayEngine:
    """The cluster, and the number of workers.

    address: of a running cluster, as `ray.init` takes it. None: $RAY_ADDRESS, else a new cluster on this machine.
    workers: actors, each with a model; None for as many as the cluster's processors allow.
    """

    address: str | None = None
    workers: int | None = None

    @contextmanager
    def __call__(self, job: Job, skip: int) -> Iterator[Iterator[Answers]]:
        """An `Engine`. The first window is answered on entering, so faults show before anything is written."""
        if job.source.path == STDIN:
            raise InputError(
                "standard input",
                "expected a file, because Ray reads the input again after a failure; found standard input",
            )
        threads = job.operator.threads or 1
        # Workers have a working directory of their own.
        job = replace(
            job,
            source=replace(job.source, path=str(Path(job.source.path).resolve())),
            operator=replace(job.operator, artifact=job.operator.artifact.resolve(), threads=threads),
        )
        Artifact.read(job.operator.artifact)  # raises InputError where this is none
        digest = sha256_of_file(job.operator.artifact / DESCRIPTION)
        with connect(self.address, (self.workers or 1) * threads if self.workers else None):
            workers = self.workers or _count_places(job)
            windows = _stream(job, skip, digest, workers)
            first = list(islice(windows, 1))
            yield chain(first, windows)


def _count_places(job: Job) -> int:
    """Workers that the cluster's nodes have room for."""
    import ray

    places = 0
    threads, gpu = job.operator.threads or 1, job.operator.device == "cuda"
    for node in ray.nodes():
        if node["Alive"]:
            room = int(node["Resources"].get("CPU", 0)) // threads
            places += min(room, int(node["Resources"].get("GPU", 0))) if gpu else room
    if not places:
        raise InputError(
            "the Ray engine", f"no node has {threads} processors{' and a GPU' if gpu else ''} for a worker"
        )
    return places


class Worker:
    """An actor: opens the artifact once, then answers windows.

    A row holds pickled bytes both ways: a Window, then its Answers or an InputError.
    """

    def __init__(self, job: Job, digest: str) -> None:
        """digest: sha256 of the artifact's description on the starting machine. It must be the same here."""
        self._job = job
        self._open = ExitStack()  # for as long as the actor lives
        self._fault: InputError | None = None
        try:
            self._check(digest)
            self._operator = self._open.enter_context(job.operator.open())
        except InputError as error:
            self._fault = InputError(
                f"worker on {os.uname().nodename}", [f"{error.subject}: {f}" for f in error.faults]
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of one window."""
        (value,) = batch["window"]
        window = pickle.loads(value)
        fault = window if isinstance(window, InputError) else self._fault
        return {"answers": [pickle.dumps(fault or self._job.answer(self._operator, window))]}

    def _check(self, digest: str) -> None:
        description = self._job.operator.artifact / DESCRIPTION
        if not description.is_file():
            raise InputError(self._job.operator.artifact, "no artifact on this path, which every node must have")
        found = sha256_of_file(description)
        if found != digest:
            raise InputError(description, f"is another artifact: expected sha256 {digest}; found {found}")


def _stream(job: Job, skip: int, digest: str, workers: int) -> Iterator[Answers]:
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    # A row is a window: Ray Data shall neither gather them nor split them.
    context.target_max_block_size = 1
    with _silence(logging.getLogger("ray.data")), ray.data.DataContext.current(context):
        answered = (
            # No processor of its own: reading is little work, and would keep one from a worker.
            ray.data.read_datasource(_windows_source(job, skip), override_num_blocks=1, num_cpus=0)
            .map_batches(
                Worker,
                fn_constructor_args=(job, digest),
                batch_size=1,
                # Fewer are better than none, where machines come and go.
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
                num_cpus=job.operator.threads,
                num_gpus=1 if job.operator.device == "cuda" else 0,
            )
            .iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        )
        try:
            for batch in answered:
                for value in batch["answers"]:
                    found = pickle.loads(value.as_buffer())
                    if isinstance(found, InputError):
                        raise found
                    yield found
        except ray.exceptions.RayTaskError:
            raise  # a fault of ours: its traceback is wanted
        except ray.exceptions.RayError as error:
            reason = f"the cluster ended the run: {first_line(error)}; run the same command to resume"
            raise InputError("the Ray engine", reason) from error


@contextmanager
def _silence(logger: logging.Logger) -> Iterator[None]:
    """Nothing but errors, for the block."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _windows_source(job: Job, skip: int) -> "ray.data.Datasource":
    """The input's windows as a dataset. Read again from the start, it gives the same."""
    import pyarrow
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    def read() -> Iterator[pyarrow.Table]:
        try:
            for window in job.read(skip):
                yield table(window)
        except InputError as error:
            yield table(error)

    def table(value: Window | InputError) -> pyarrow.Table:
        return pyarrow.table({"window": pyarrow.array([pickle.dumps(value)], pyarrow.large_binary())})

    class Windows(Datasource):
        # On the machine where the run was started: the input need not be anywhere else.
        supports_distributed_reads = False

        def estimate_inmemory_data_size(self) -> int | None:
            return job.source.size()

        def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
            return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]

    return Windows()
