"""Lessons: what teacher and student are given, and how they are scored: plain text, or labelled data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from yizhi.errors import InputError
from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES, SEQUENCE, TOKENS
from yizhi.model.spec import LinearHead
from yizhi.reading.checkpoint import Checkpoint
from yizhi.storage.digests import sha256_of_file
from yizhi.training import loop
from yizhi.training.batches import LengthGroupedBatches, collate
from yizhi.training.features import Feature, open_tokenizer
from yizhi.training.predict import predict
from yizhi.training.pretrain import Objective, prepare, score_masked
from yizhi.training.sequences import EpochBatches
from yizhi.training.settings import Settings
from yizhi.training.tasks.faults import Faults
from yizhi.training.tasks.readers import find_reader
from yizhi.training.unlabelled import read_unlabelled


@dataclass(frozen=True)
class Lesson:
    """What teacher and student are given and how they are scored.

    suffix: of transformers' class. config: of the task's labels. dataset, batches: as `loop.train` takes them.
    measure: scores of a model on held-out data, or None without. best, greater: which of them decides, and how.
    compared: which of them says how much a student kept. identity: what tells this lesson from another.
    skipped: faults of rows that were left out. labelled: the batches of rows with labels, where others have none: all
    that can be learned without a teacher.
    """

    suffix: str
    config: Mapping[str, Any]
    dataset: loop.Indexed
    batches: Any
    pad_id: int
    measure: Callable[[Any], dict[str, float]] | None
    best: str
    greater: bool
    compared: str
    identity: Mapping[str, Any]
    problem_type: str | None = None
    skipped: tuple[str, ...] = ()
    labelled: Any = None

    @property
    def goal(self) -> loop.Goal | None:
        """What training is measured by."""
        return loop.Goal(self.measure, self.best, self.greater) if self.measure else None

    def collate(self, features: Any) -> dict[str, torch.Tensor]:
        """A batch for the model."""
        return collate(features, self.pad_id)

    def alone(self, settings: Settings) -> tuple["Lesson", Settings]:
        """What a student learns without a teacher: the rows with labels, in as many steps."""
        if self.labelled is None:
            return self, settings
        epoch = math.ceil(len(self.batches) / settings.accumulation)
        told = replace(
            settings,
            max_steps=settings.max_steps or epoch * settings.epochs,
            evaluate_every=settings.evaluate_every or epoch,
        )
        return replace(self, batches=self.labelled), told


OpenLesson = Callable[[Checkpoint, Settings], Lesson]


def from_text(objective: Objective) -> OpenLesson:
    """Masked-language modelling on plain text."""

    def open_(teacher: Checkpoint, settings: Settings) -> Lesson:
        if teacher.spec.task != "fill-mask":
            raise InputError(
                teacher.folder,
                f"expected a masked-LM head for plain text; found {teacher.spec.task}: labels need `train`",
            )
        if objective.pairs:
            raise InputError("`pairs`", f"a student learns no head over pairs; found {objective.pairs}")
        prepared = prepare(teacher, objective, settings.seed)
        held_out, pad_id = prepared.held_out, prepared.tokenizer.pad_id
        return Lesson(
            suffix="ForMaskedLM",
            config={},
            dataset=prepared.train,
            batches=EpochBatches(prepared.train.lengths, settings.batch_size, settings.seed),
            pad_id=pad_id,
            measure=(lambda model: score_masked(model, held_out, pad_id)) if held_out else None,
            best="loss",
            greater=False,
            compared="accuracy",
            identity=objective.identity(),
        )

    return open_


def from_labels(
    train: Path,
    evaluation: Path | None,
    columns: Mapping[str, str],
    max_length: int | None = None,
    skip_faulty: bool = False,
    unlabelled: Sequence[Path] = (),
) -> OpenLesson:
    """Labelled data for the teacher's own labels, of texts or of tokens. The arguments are those of `finetune`.

    unlabelled: files with more texts, whose labels the teacher gives. A student that learns alone does not see them.
    """

    def open_(teacher: Checkpoint, settings: Settings) -> Lesson:
        task_name, head = teacher.spec.task, teacher.spec.head
        if task_name not in (SEQUENCE, TOKENS) or not isinstance(head, LinearHead):
            raise InputError(
                teacher.folder,
                f"expected a teacher of {SEQUENCE} or {TOKENS} for labelled data; found {task_name}: fine-tune it",
            )
        tokenizer, faults = open_tokenizer(teacher, max_length), Faults()
        reader = find_reader(task_name, head.problem_type, columns)
        task = reader.task_of(head.labels, head.problem_type)
        examples = reader.read(train, faults)
        held_out = reader.read(evaluation, faults) if evaluation else []
        more = read_unlabelled(unlabelled, columns, tokenizer, head.problem_type, len(head.labels), faults)
        skipped = faults.take_rows() if skip_faulty else []
        task.check([*examples, *held_out], faults)
        faults.check()
        features = task.encode(examples, tokenizer, faults)
        held_out_features = task.encode(held_out, tokenizer, faults) if held_out else []
        faults.check()

        def measure(model: Any) -> dict[str, float]:
            logits, loss = predict(model, held_out_features, tokenizer.pad_id)
            return {"loss": loss, **task.score(held_out, held_out_features, logits)}

        def batch(rows: Sequence[Feature]) -> LengthGroupedBatches:
            return LengthGroupedBatches([row.length for row in rows], settings.batch_size, settings.seed)

        return Lesson(
            suffix=LABEL_CLASS_SUFFIXES[task_name],
            config=task.config(),
            dataset=[*features, *more],
            batches=batch([*features, *more]),
            pad_id=tokenizer.pad_id,
            measure=measure if held_out else None,
            best=task.best,
            greater=True,
            compared=task.best,
            identity={
                "train": sha256_of_file(train),
                "eval": sha256_of_file(evaluation) if evaluation else None,
                "unlabelled": [sha256_of_file(path) for path in unlabelled],
                "columns": vars(reader),
                "max_length": tokenizer.max_length,
            },
            problem_type=head.problem_type,
            skipped=tuple(skipped),
            labelled=batch(features) if more else None,
        )

    return open_
