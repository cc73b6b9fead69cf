"""Plots of a training: the loss, and the scores of each evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(path: Path, log: Sequence[Mapping[str, float]], scores: Sequence[str] = ()) -> None:
    """Draw Trainer's log as .svg or .png: training and evaluation loss by step, and these scores below."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    named = [name for name in scores if any(f"eval_{name}" in entry for entry in log)]
    figure = Figure(figsize=(7, 3.2 * (2 if named else 1)), layout="constrained")
    axes = figure.subplots(2 if named else 1, 1, sharex=True, squeeze=False)[:, 0]
    for name, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(entry["step"], entry[name]) for entry in log if name in entry]
        if points:
            axes[0].plot(*zip(*points, strict=True), label=label, marker="." if name != "loss" else None)
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    for name in named:
        points = [(entry["step"], entry[f"eval_{name}"]) for entry in log if f"eval_{name}" in entry]
        axes[1].plot(*zip(*points, strict=True), label=name, marker=".")
    if named:
        axes[1].set_ylabel("score")
        axes[1].legend(frameon=False)
    axes[-1].set_xlabel("step")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})
