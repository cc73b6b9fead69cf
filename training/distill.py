"""Distillation: a student of fewer layers learns from its teacher, and the record says what it kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from yizhi.errors import InputError
from yizhi.model.spec import EncoderSpec, parameters_of
from yizhi.reading.checkpoint import Checkpoint
from yizhi.storage.folders import new_folder
from yizhi.training import loop, transformers_models
from yizhi.training.distillation_losses import Distiller
from yizhi.training.distillation_weights import Weights
from yizhi.training.lessons import Lesson, OpenLesson
from yizhi.training.plots import draw
from yizhi.training.settings import Settings
from yizhi.training.students import choose_layers, write_student
from yizhi.training.work import RECORD, work_folder, write_record

BASELINE_PLOT = "baseline.svg"
_START, _ALONE = "start", "alone"
_TIMED = 10
# Of a student and its spec: the loss that it learns by.
Teach = Callable[[Any, EncoderSpec], loop.Loss]


@dataclass(frozen=True)
class Side:
    """One of the models. scores: on the evaluation data, empty without. parameters: how many numbers it has."""

    layers: int
    parameters: int
    scores: dict[str, float]


@dataclass(frozen=True)
class DistillationResult:
    """What came of it.

    baseline: the same student trained alone, with the same steps and seed, if it was asked for. compared: the score
    that says how much was kept. speedup: the teacher's time over the student's, for one batch on the CPU.
    skipped: faults of rows that were left out. pooling: how texts become vectors, in words, where the teacher is one of
    sentence-transformers' folders; no loss teaches these vectors.
    """

    teacher: Side
    student: Side
    baseline: Side | None
    compared: str
    speedup: float
    history: loop.History
    seconds: float
    skipped: tuple[str, ...]
    pooling: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        sides = {"teacher": self.teacher, "student": self.student, "baseline": self.baseline}
        return {
            **{name: vars(side) if side else None for name, side in sides.items()},
            **{name: getattr(self, name) for name in ("compared", "speedup", "seconds", "skipped", "pooling")},
        }


def distill(
    base: Path,
    layers: Sequence[int] | int,
    out: Path,
    settings: Settings,
    weights: Weights,
    open_lesson: OpenLesson,
    *,
    baseline: bool = False,
) -> DistillationResult:
    """Make a student of these layers of the checkpoint `base`, let it learn, and write it as the checkpoint `out`.

    layers: numbers from 0, or how many from the bottom. open_lesson: `from_text(…)` or `from_labels(…)`. baseline: also
    train the same student on the labels alone, and compare.
    Interrupted, it leaves `OUT.partial`, from which the same call goes on. A pooler that nothing trains stays.
    Raises InputError, listing every fault, for data, settings or a checkpoint that cannot be used.
    """
    began = perf_counter()
    with new_folder(out, replaces=(RECORD,)) as folder, Checkpoint.open(base) as teacher:
        if out.resolve() == teacher.folder.resolve():
            raise InputError(out, "is the teacher itself: expected another folder")
        transformers_models.check_trainable(teacher)
        chosen = choose_layers(teacher, layers)  # before the text is read
        lesson = open_lesson(teacher, settings)
        identity = {
            "checkpoint": teacher.digest(),
            "layers": list(chosen),
            "losses": weights.as_dict(),
            "baseline": baseline,
            **lesson.identity,
            "settings": settings.as_dict(),
        }
        with work_folder(out, identity) as work:
            with new_folder(work / _START, replaces=("config.json",)) as start:
                write_student(teacher, chosen, start)
            with Checkpoint.open(work / _START) as start_checkpoint:
                teaching, _ = transformers_models.build_model(teacher, lesson.suffix, lesson.config)
                teaching.eval().to(loop.choose_device(settings))

                def teach(student: Any, spec: EncoderSpec) -> loop.Loss:
                    return Distiller(teaching, teacher.spec, student, spec, weights, lesson.problem_type)

                model, history = _train(start_checkpoint, lesson, settings, work, teach)
                alone = _train(start_checkpoint, *lesson.alone(settings), work / _ALONE) if baseline else None
                pooler = parameters_of(start_checkpoint.spec.pooler)
                transformers_models.write_checkpoint(
                    folder, model, start_checkpoint, lesson.config, pooler, keep_pooling=True
                )
                counts = len(teacher.spec.blocks), len(chosen)
                outcome = DistillationResult(
                    teacher=_judge(teaching, lesson, counts[0]),
                    student=_judge(model, lesson, counts[1]),
                    baseline=_judge(alone[0], lesson, counts[1]) if alone else None,
                    compared=lesson.compared,
                    speedup=_speedup(teaching, model, lesson),
                    history=history,
                    seconds=perf_counter() - began,
                    skipped=lesson.skipped,
                    pooling=str(teacher.sentence.pooling) if teacher.sentence else None,
                )
            drawn = tuple(name for name in outcome.student.scores if name != "loss")
            more = {"baseline_log": alone[1].log} if alone else {}
            write_record(folder, identity, history, drawn, **outcome.as_dict(), **more)
            if alone:
                draw(folder / BASELINE_PLOT, alone[1].log, drawn)
    return outcome


def _train(
    start: Checkpoint, lesson: Lesson, settings: Settings, work: Path, teach: Teach | None = None
) -> tuple[Any, loop.History]:
    """The student, trained from its start; alone if nobody teaches."""
    loop.seed_everything(settings)
    model, _ = transformers_models.build_model(start, lesson.suffix, lesson.config)
    loss = teach(model, start.spec) if teach else None
    history = loop.train(model, lesson.dataset, lesson.batches, lesson.collate, settings, work, lesson.goal, loss=loss)
    return model.eval(), history


def _judge(model: Any, lesson: Lesson, layers: int) -> Side:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Side(layers, parameters, lesson.measure(model.eval()) if lesson.measure else {})


def _speedup(teacher: Any, student: Any, lesson: Lesson) -> float:
    """How many times as long the teacher takes for one batch on the CPU; the best of each one's passes counts.

    They take turns, so that a slow moment of the machine falls on both.
    """
    lesson.batches.set_epoch(0)
    batch = lesson.collate([lesson.dataset[index] for index in next(iter(lesson.batches))])
    del batch["labels"]
    models = [model.to("cpu") for model in (teacher, student)]
    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(_TIMED):
            for model, taken in zip(models, times, strict=True):
                began = perf_counter()
                model(**batch)
                taken.append(perf_counter() - began)
    return min(times[0]) / min(times[1])
