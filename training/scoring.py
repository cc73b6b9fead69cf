"""An artifact's score on labelled data. Needs the artifact's own framework, and the scoring libraries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yizhi.errors import InputError
from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES, SEQUENCE, TOKENS
from yizhi.release.artifact import Artifact
from yizhi.runtimes import Tokenizer, open_runtime
from yizhi.training.predict import predict_with_artifact
from yizhi.training.requirements import require
from yizhi.training.tasks import Task
from yizhi.training.tasks.faults import Faults
from yizhi.training.tasks.readers import find_reader
from yizhi.training.tasks.scores import Scores

_COUNTED_BY = {TOKENS: ("seqeval", "sklearn"), SEQUENCE: ("sklearn",)}


def read_labelled(
    artifact: Artifact, data: Path, columns: Mapping[str, str], skip_faulty: bool = False
) -> tuple[Task[Any], list[Any], list[str]]:
    """The artifact's task, the examples of a file, and the faults of rows that were left out.

    Raises InputError, listing every fault, for data that does not fit the artifact's labels.
    """
    said = artifact.description
    if said["task"] not in LABEL_CLASS_SUFFIXES:
        raise InputError(artifact.folder, f"has no labels to be scored: its task is {said['task']}")
    require(*_COUNTED_BY.get(said["task"], ()))
    reader = find_reader(said["task"], said.get("problem_type"), columns)
    faults = Faults()
    examples = reader.read(data, faults)
    skipped = faults.take_rows() if skip_faulty else []
    task = reader.task_of(said["labels"], said.get("problem_type"))
    task.check(examples, faults)
    faults.check()
    return task, examples, skipped


def score_artifact(
    folder: Path,
    data: Path,
    columns: Mapping[str, str],
    *,
    skip_faulty: bool = False,
    device: str = "cpu",
    threads: int | None = None,
) -> Scores:
    """Run an artifact on labelled data. Raises InputError as `read_labelled` does."""
    task, examples, _ = read_labelled(Artifact.read(folder), data, columns, skip_faulty)
    tokenizer, faults = Tokenizer.open(folder), Faults()
    features = task.encode(examples, tokenizer, faults)
    faults.check()
    with open_runtime(folder, device=device, threads=threads) as runtime:
        logits = predict_with_artifact(runtime, features, tokenizer.pad_id)
    return Scores(dict(task.score(examples, features, logits)), task.best, len(examples))
