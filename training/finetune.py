"""Fine-tuning: from a checkpoint and labelled data to a checkpoint with a head for the task."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES
from yizhi.model.spec import LinearHead
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.digests import sha256_of_file
from yizhi.storage.folders import new_folder
from yizhi.training import loop, transformers_models
from yizhi.training.batches import LengthGroupedBatches, collate
from yizhi.training.features import Feature, open_tokenizer
from yizhi.training.methods import Method
from yizhi.training.predict import predict
from yizhi.training.settings import Settings
from yizhi.training.tasks import DatasetReader, Task
from yizhi.training.tasks.faults import Faults
from yizhi.training.work import RECORD, work_folder, write_record


@dataclass(frozen=True)
class FinetuningResult:
    """The result of a run.

    scores: of the written model on the evaluation file; empty without one. guess: the baseline there, as in
    `Task.guess`. evaluated: the number of examples in that file. new: parameters that started at random.
    examples, rows: of the training file. trained, parameters: how many numbers were trained, of how many.
    skipped: faults of rows that were left out.
    """

    labels: tuple[str, ...]
    scores: dict[str, float]
    best: str
    guess: dict[str, float]
    evaluated: int
    history: loop.History
    new: tuple[str, ...]
    examples: int
    rows: int
    trained: int
    parameters: int
    seconds: float
    skipped: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kept = ["labels", "scores", "best", "guess", "evaluated", "new", "examples", "rows", "trained", "parameters"]
        kept += ["seconds", "skipped"]
        steps = {"steps": self.history.steps, "best_step": self.history.best_step}
        return {name: getattr(self, name) for name in kept} | steps | {"resumed_at": self.history.resumed_at}


def finetune(
    base: Path,
    reader: DatasetReader,
    train: Path,
    evaluation: Path | None,
    out: Path,
    settings: Settings,
    method: Method,
    *,
    max_length: int | None = None,
    new_head: bool = False,
    skip_faulty: bool = False,
) -> FinetuningResult:
    """Train the checkpoint `base` and write the checkpoint `out`.

    An interrupted run leaves `OUT.partial`. The same call resumes it.
    max_length: the most tokens in a row; the model's positions if None. new_head: replace the head that `base` has for
    this task. skip_faulty: leave out rows that cannot be read.
    Raises InputError, listing every fault, for data, settings or a checkpoint that cannot be used.
    """
    began = monotonic()
    with new_folder(out, replaces=(RECORD,)) as folder, Checkpoint.open(base) as checkpoint:
        tokenizer = open_tokenizer(checkpoint, max_length)
        data = _read(checkpoint, reader, train, evaluation, tokenizer, new_head, skip_faulty)
        task = data.task
        identity = {
            "checkpoint": checkpoint.digest(),
            "task": task.name,
            **task.config(),
            "train": sha256_of_file(train),
            "eval": sha256_of_file(evaluation) if evaluation else None,
            "columns": vars(reader),
            "max_length": tokenizer.max_length,
            "method": method.as_dict(),
            "settings": settings.as_dict(),
        }

        def measure(model: Any) -> dict[str, float]:
            logits, loss = predict(model, data.held_out_features, tokenizer.pad_id)
            return {"loss": loss, **task.score(data.held_out, data.held_out_features, logits)}

        with work_folder(out, identity) as work:
            loop.seed_everything(settings)
            model, new = transformers_models.build_model(checkpoint, LABEL_CLASS_SUFFIXES[task.name], task.config())
            prepared = method.prepare(model, checkpoint, new)
            counts = _count(prepared, trained=True), _count(prepared, trained=False)
            goal = loop.Goal(measure, task.best) if data.held_out else None
            history = loop.train(
                prepared,
                data.features,
                LengthGroupedBatches([feature.length for feature in data.features], settings.batch_size, settings.seed),
                _Collate(tokenizer.pad_id),
                settings,
                work,
                goal,
            )
            model = method.finish(prepared, folder).eval()
            scores = measure(model) if data.held_out else {}
            transformers_models.write_checkpoint(folder, model, checkpoint, task.config())
            outcome = FinetuningResult(
                labels=task.labels,
                scores=scores,
                best=task.best,
                guess=task.guess(data.examples, data.held_out) if data.held_out else {},
                evaluated=len(data.held_out),
                history=history,
                new=tuple(new),
                examples=len(data.examples),
                rows=len(data.features),
                trained=counts[0],
                parameters=counts[1],
                seconds=monotonic() - began,
                skipped=data.skipped,
            )
            write_record(folder, identity, history, tuple(name for name in scores if name != "loss"), **_told(outcome))
    return outcome


@dataclass(frozen=True)
class _Data:
    """The content of both files. `held_out` is the evaluation file's, empty without one."""

    task: Task
    examples: list[Any]
    features: list[Feature]
    held_out: list[Any]
    held_out_features: list[Feature]
    skipped: tuple[str, ...]


def _read(
    checkpoint: Checkpoint,
    reader: DatasetReader,
    train: Path,
    evaluation: Path | None,
    tokenizer: Tokenizer,
    new_head: bool,
    skip_faulty: bool,
) -> _Data:
    """Raises InputError, listing every fault of both files."""
    faults = Faults()
    examples = reader.read(train, faults)
    held_out = reader.read(evaluation, faults) if evaluation else []
    skipped = tuple(faults.take_rows()) if skip_faulty else ()
    task = _choose_task(checkpoint, reader, examples, new_head, faults)
    _check_labels(task, [*examples, *held_out], checkpoint, new_head, faults)
    faults.check()
    features = task.encode(examples, tokenizer, faults)
    held_out_features = task.encode(held_out, tokenizer, faults) if held_out else []
    faults.check()
    return _Data(task, examples, features, held_out, held_out_features, skipped)


def _told(outcome: FinetuningResult) -> Mapping[str, Any]:
    return {key: value for key, value in outcome.as_dict().items() if key not in ("steps", "best_step", "resumed_at")}


@dataclass(frozen=True)
class _Collate:
    pad_id: int

    def __call__(self, features: list[Feature]) -> dict[str, Any]:
        return collate(features, self.pad_id)


def _choose_task(
    checkpoint: Checkpoint, reader: DatasetReader, examples: list[Any], new_head: bool, faults: Faults
) -> Task:
    """The task with the data's labels, or with those of the checkpoint's own head, which is then trained on."""
    found = reader.make_task(examples)
    head = checkpoint.spec.head
    if new_head or checkpoint.spec.task != found.name or not isinstance(head, LinearHead):
        return found
    task = reader.task_of(head.labels, head.problem_type)
    if task.config().get("problem_type") != found.config().get("problem_type"):
        kind = task.config()["problem_type"]
        faults.add(checkpoint.folder, None, f"its head is for {kind}; `new_head` replaces it")
        return found
    return task


def _check_labels(task: Task, examples: list[Any], checkpoint: Checkpoint, new_head: bool, faults: Faults) -> None:
    known = len(faults)
    task.check(examples, faults)
    if len(faults) > known and not new_head and checkpoint.spec.task == task.name:
        faults.add(checkpoint.folder, None, f"its head has {len(task.labels)} labels; `new_head` replaces it")


def _count(model: Any, trained: bool) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)
