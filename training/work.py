"""The files of a training run: the state to resume from, and the record of a finished run."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yizhi.errors import InputError, show
from yizhi.storage.json_files import read_json_object, to_json
from yizhi.storage.locks import hold
from yizhi.training.plots import draw

if TYPE_CHECKING:
    from yizhi.training.loop import History

RECORD = "metrics.json"
PLOT = "training.svg"
_IDENTITY = "run.json"


@contextmanager
def work_folder(out: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """`OUT.partial`, where a run saves its state. The same run finds it again, and removes it at the end.

    identity: plain values that identify the run: its settings, and digests of its inputs.
    Raises InputError if the folder is another run's, or in use.
    """
    folder = out.parent / f"{out.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder, "another training is writing to this folder"):
        _check_identity(folder, identity)
        try:
            yield folder
        except BaseException:
            if not any(folder.glob("checkpoint-*")):
                shutil.rmtree(folder)  # nothing to go on from
            raise
        shutil.rmtree(folder)


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / _IDENTITY
    if not path.exists():
        if any(folder.iterdir()):
            raise InputError(folder, f"is not empty, and not an interrupted training: it has no {_IDENTITY}")
        path.write_text(to_json(identity), encoding="utf-8")
        return
    before, now = _flatten(read_json_object(path)), _flatten(identity)
    faults = [
        f"{name}: was {show(before.get(name))}; is {show(now.get(name))}"
        for name in sorted({**before, **now})
        if before.get(name) != now.get(name)
    ]
    if faults:
        raise InputError(
            folder, ["holds an interrupted run with other settings; remove the folder to start again", *faults]
        )


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested objects by their dotted names."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flatten(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": item}
    return flat


def write_record(
    folder: Path, identity: Mapping[str, Any], history: "History", drawn: Sequence[str] = (), **more: Any
) -> None:
    """Write `metrics.json` (the run, Trainer's log, the best step, and `more`) and `training.svg`.

    drawn: names of measured scores to draw below the loss.
    """
    record = {
        "schema_version": 1,
        "run": dict(identity),
        "steps": history.steps,
        "best_step": history.best_step,
        "resumed_at": history.resumed_at,
        **more,
        "log": history.log,
        "packages": {name: version(name) for name in ("torch", "transformers", "accelerate", "peft")},
    }
    (folder / RECORD).write_text(to_json(record), encoding="utf-8")
    draw(folder / PLOT, history.log, drawn)
