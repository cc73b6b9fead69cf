"""A whole file through an operator. A killed run resumes when it is started again.

Rows are answered a window at a time. After each window the working file is flushed to the disk. OUTPUT.progress then
records, in one atomic step, how much of the input and of each file counts. A new start cuts the files back to that,
skips the answered rows, and continues: no row is lost or written twice.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from yizhi.bulk.job import Answers, Engine, Job, answer_here
from yizhi.bulk.progress import Progress
from yizhi.bulk.writers import Writer, open_writer
from yizhi.errors import InputError
from yizhi.storage.codec import from_plain
from yizhi.storage.locks import hold


@dataclass(frozen=True)
class Position:
    """The progress of a run: rows read, rows that could not be used, rows written, and how much of the files counts."""

    records: int = 0
    failed: int = 0
    rows: int = 0
    output_bytes: int = 0
    error_bytes: int = 0


def run(job: Job, progress: Progress, report: Callable[[str], None], engine: Engine = answer_here) -> Position:
    """Do the job, or resume it. report: called with each bad row if there is no errors file.

    Another engine can resume the run. Raises InputError for a job that cannot be done, for an unfinished run with other
    settings, and, with `strict`, for the first bad row.
    """
    job.check()
    position = _resume(job)
    if position and job.output.exists() and not job.working.exists():  # killed between its last two steps
        job.state.unlink()
        return position
    position = position or Position()
    with (
        engine(job, position.records) as windows,
        _open_at(job.working, position.output_bytes) as file,
        _open_at(job.errors, position.error_bytes) if job.errors else nullcontext() as errors,
    ):
        width = job.operator.width if job.operator.is_vector else 0
        writer = open_writer(job.output, file, position.rows, width, job.operator.columns)
        if not position.output_bytes:
            writer.begin()
        if not position.records:
            _list_earlier(job, errors, report)
        progress.begin(position.records)
        with _without_leftovers(job):
            for answers in windows:
                position = _write(job, answers, writer, (file, errors), position, report)
                progress.advance(position.records, answers.done)
        position = _commit(job, position, writer, (file, errors))
        writer.finish(job.working, job.output)
    job.state.unlink()
    return position


def _list_earlier(job: Job, errors: BinaryIO | None, report: Callable[[str], None]) -> None:
    """Report rows of other files that are not used. They name their file; the input's rows do not."""
    for row in job.earlier:
        if errors is None:
            report(f"{row.path}: row {row.number}: {row.fault}")
        else:
            line = json.dumps({"file": row.path, "row": row.number, "error": row.fault}, ensure_ascii=False)
            errors.write(line.encode() + b"\n")


def _write(
    job: Job,
    answers: Answers,
    writer: Writer,
    files: tuple[BinaryIO, BinaryIO | None],
    position: Position,
    report: Callable[[str], None],
) -> Position:
    """Write a window to the files, and record it."""
    for number, fault in answers.faults.items():
        if job.strict:
            raise InputError(job.source.path, f"row {number}: {fault}")
        if files[1] is None:
            report(f"{job.source.path}: row {number}: {fault}")
        else:
            line = json.dumps({"row": number, "error": fault}, ensure_ascii=False)
            files[1].write(line.encode() + b"\n")
    rows = []
    for number, columns in answers.rows.items():
        if columns is not None:
            rows.append({"row": number, **columns})
        elif not _names_rows(job.output):
            rows.append({"row": number, "embedding": None})
    writer.append(rows)
    position = replace(
        position, records=position.records + len(answers.rows), failed=position.failed + len(answers.faults)
    )
    return _commit(job, position, writer, files)


def _names_rows(output: Path) -> bool:
    return output.suffix.lower() in (".jsonl", ".parquet")


def _resume(job: Job) -> Position | None:
    """The position of an earlier run of this job. None without one."""
    try:
        state = json.loads(job.state.read_text(encoding="utf-8"))
        identity, position = dict(state["identity"]), from_plain(Position, state["position"])
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InputError(job.state, "is not the state of an unfinished run; remove this file to start again") from None
    found = json.loads(json.dumps(job.identity()))
    differing = [key for key in found if identity.get(key) != found[key]]
    if differing:
        raise InputError(
            job.state,
            f"an unfinished run had other {' and '.join(differing)}; use the same, or remove this file to start over",
        )
    return position


def _commit(job: Job, position: Position, writer: Writer, files: tuple[BinaryIO, BinaryIO | None]) -> Position:
    """Record the written part."""
    sizes = []
    for file in files:
        if file is not None:
            file.flush()
            os.fsync(file.fileno())
        sizes.append(0 if file is None else file.tell())
    position = replace(position, rows=writer.rows, output_bytes=sizes[0], error_bytes=sizes[1])
    temporary = job.state.with_name(job.state.name + ".new")
    with open(temporary, "w", encoding="utf-8") as state:
        json.dump({"identity": job.identity(), "position": asdict(position)}, state, ensure_ascii=False)
        state.flush()
        os.fsync(state.fileno())
    temporary.replace(job.state)
    return position


@contextmanager
def _without_leftovers(job: Job) -> Iterator[None]:
    """Remove the working files of a run that nothing can resume: none of it counts, or its input ended it.

    A run that `strict` ended resumes without `strict`.
    """
    try:
        yield
    except BaseException as error:
        if (isinstance(error, InputError) and not job.strict) or not job.state.exists():
            for path in (job.state, job.working, job.errors):
                if path is not None:
                    path.unlink(missing_ok=True)
        raise


@contextmanager
def _open_at(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file cut back to the recorded size, locked against a second run, at its end."""
    with open(path, "r+b" if path.exists() else "x+b") as file, hold(path, "another run is writing this file"):
        if path.stat().st_size < size:
            raise InputError(path, f"expected the {size} bytes of an earlier run; found {path.stat().st_size}")
        file.truncate(size)
        file.seek(size)
        yield file
