"""The reader of each task, by its name in yizhi.model.label_heads."""

from collections.abc import Mapping
from typing import Any

from yizhi.errors import InputError
from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES, SEQUENCE, SINGLE_LABEL, TOKENS
from yizhi.training.tasks import DatasetReader, classification, reading, tagging


def find_reader(task: str, problem_type: str | None, columns: Mapping[str, str]) -> DatasetReader[Any]:
    """The reader of labelled data for a task.

    columns: `column`, `pair_column` and `label_column`, if they differ from the usual, for classification.
    Raises InputError for a task without labels, and for columns if the task's files have none.
    """
    if task == SEQUENCE:
        return classification.ClassificationReader(problem_type or SINGLE_LABEL, **columns)
    if columns:
        raise InputError("options", [f"`{name}`: needs a classifier" for name in columns])
    if task not in LABEL_CLASS_SUFFIXES:
        raise InputError("task", f"expected one of {', '.join(LABEL_CLASS_SUFFIXES)}; found {task}")
    return tagging.TaggingReader() if task == TOKENS else reading.SquadReader()
