"""One training run on Hugging Face Trainer: AdamW with warm-up, evaluated, resumable, quiet."""

import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from torch.utils.data import DataLoader, Dataset

from yizhi.errors import InputError
from yizhi.training.settings import Settings

Scores = dict[str, float]
_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Goal:
    """The measurements during training.

    measure: scores of the model in its present state, with `loss` if it is to be drawn. best: the score that decides
    which evaluation's weights are kept, and when to stop. greater: whether higher is better.
    """

    measure: Callable[[torch.nn.Module], Scores]
    best: str
    greater: bool = True


@dataclass(frozen=True)
class History:
    """The course of a training: Trainer's log, in order, and the best evaluation.

    steps: the optimizer's. resumed_at: the step that an earlier run had reached, or 0.
    """

    log: list[dict[str, float]]
    steps: int
    best_step: int | None = None
    resumed_at: int = 0


def seed_everything(settings: Settings) -> None:
    """Seed Python's, numpy's and torch's generators, and set torch's threads. Before a new head is made."""
    transformers.set_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)


def choose_device(settings: Settings) -> str:
    """`cpu` or `cuda`. Raises InputError if CUDA is requested and missing."""
    found = torch.cuda.is_available()
    if settings.device == "cuda" and not found:
        raise InputError("`device`", "expected cpu: PyTorch finds no CUDA device")
    return settings.device or ("cuda" if found else "cpu")


class Indexed(Protocol):
    """A dataset. A batch sampler's indices, of any kind, name its rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


def train(
    model: torch.nn.Module,
    dataset: Indexed,
    batches: Any,
    collate: Callable[[list[Any]], dict[str, torch.Tensor]],
    settings: Settings,
    folder: Path,
    goal: Goal | None = None,
    callbacks: Sequence[transformers.TrainerCallback] = (),
) -> History:
    """Train the model in place, and leave it with its best weights (without a goal: its last weights).

    dataset: what `batches` (a batch sampler, such as LengthGroupedBatches) indexes. `collate` makes the arguments of
    the model's `forward`, which must return a loss. folder: where states are saved. Training resumes from a complete
    state in it.
    """
    resume = find_state(folder)
    trainer = _Trainer(
        model=model,
        args=_arguments(settings, folder, goal, len(batches)),
        train_dataset=dataset,
        eval_dataset=[] if goal else None,  # demanded, though `evaluate` has its own
        data_collator=collate,
        callbacks=[_Progress(), *_stopping(settings, goal), *callbacks],
        batches=batches,
        goal=goal,
    )
    # It prints every log entry to standard output.
    trainer.remove_callback(transformers.PrinterCallback)
    with warnings.catch_warnings():
        # It then goes by the numbers in their names, which is what is meant.
        warnings.filterwarnings("ignore", "mtime may not be reliable", UserWarning)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    # Under bf16 its forward pass rounds; what is scored and written afterwards is the float32 model.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    state = trainer.state
    best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else ""
    return History(
        log=state.log_history,
        steps=state.global_step,
        best_step=int(best.rpartition("-")[2]) if best else None,
        resumed_at=int(resume.name.rpartition("-")[2]) if resume else 0,
    )


def find_state(folder: Path) -> Path | None:
    """The newest complete state of an interrupted run. Removes incomplete ones."""
    states = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for state in states:
        try:
            json.loads((state / _STATE).read_text(encoding="utf-8"))  # the last file that Trainer writes
        except (OSError, ValueError):
            shutil.rmtree(state)
        else:
            return state
    return None


class _Trainer(transformers.Trainer):
    """Trainer with our batches, and our measurements instead of its evaluation loop."""

    def __init__(self, *, batches: Any, goal: Goal | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Under transformers 5 heads take a count of labels and do not divide by it: accumulated losses would add up.
        self.model_accepts_loss_kwargs = False
        self._batches = batches
        self._goal = goal

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            cast(Dataset, self.train_dataset),
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.device.type == "cuda",
        )
        return self.accelerator.prepare(loader)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        model = cast(torch.nn.Module, self.model)  # Trainer says that there may be none
        model.eval()
        scores = self._goal.measure(model) if self._goal else {}
        scores = {f"eval_{name}": value for name, value in scores.items()}
        self.log(dict(scores))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, scores)
        return scores


def _arguments(settings: Settings, folder: Path, goal: Goal | None, batches: int) -> transformers.TrainingArguments:
    steps = settings.max_steps or settings.epochs * math.ceil(batches / settings.accumulation)
    every: dict[str, Any] = {"save_strategy": "epoch"}
    if settings.evaluate_every:
        every = {"save_strategy": "steps", "save_steps": settings.evaluate_every}
    if goal:
        every |= {"eval_strategy": every["save_strategy"], "eval_steps": settings.evaluate_every}
        every |= {"load_best_model_at_end": True, "metric_for_best_model": goal.best, "greater_is_better": goal.greater}
    # Else what one run of a process asked for would hold for the next.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if settings.precision == "bf16" else "no"
    return transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(settings.warmup * steps),  # transformers 5 takes no ratio
        weight_decay=settings.weight_decay,
        bf16=settings.precision == "bf16",
        use_cpu=choose_device(settings) == "cpu",
        seed=settings.seed,
        logging_strategy="steps",
        logging_steps=1,
        save_total_limit=2,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        **every,
    )


def _stopping(settings: Settings, goal: Goal | None) -> list[transformers.TrainerCallback]:
    return [transformers.EarlyStoppingCallback(settings.patience)] if goal and settings.patience else []


class _Progress(transformers.TrainerCallback):
    """Steps, loss and the latest score in one line on a terminal; nothing in a log."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._bar = RichProgress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._shown: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.start()
        self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        self._shown |= {
            name: value for name, value in (logs or {}).items() if name == "loss" or name.startswith("eval_")
        }
        text = ", ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in self._shown.items())
        self._bar.update(self._task, description=text)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.stop()
