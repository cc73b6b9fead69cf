"""The arguments that every training command shares: how long, how fast, on what."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from yizhi.choices import DEVICES
from yizhi.commands.options import CHECKPOINT_HELP, named, positive
from yizhi.training.choices import PRECISIONS

if TYPE_CHECKING:
    from yizhi.training.settings import Settings


def add_run_options(parser: argparse.ArgumentParser, train: str, scored: str) -> None:
    """Declare the checkpoint, the data and the output folder."""
    parser.add_argument("checkpoint", help=CHECKPOINT_HELP)
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    parser.add_argument("--out", type=named, required=True, metavar="CHECKPOINT", help="the new folder to write")
    parser.add_argument("--train", type=named, required=True, metavar="FILE", help=f"{train} to train on")
    parser.add_argument(
        "--eval", type=named, metavar="FILE", help=f"{scored} that scores the model and chooses the best state"
    )
    parser.add_argument(
        "--max-length", type=positive, metavar="N", help="tokens of a row (default: the model's maximum)"
    )


def add_training_options(parser: argparse.ArgumentParser, epochs: int, learning_rate: float) -> None:
    """Declare them."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive, default=epochs, help=f"passes over the data (default: {epochs})")
    group.add_argument("--max-steps", type=positive, metavar="N", help="optimizer steps, instead of whole epochs")
    group.add_argument("--batch-size", type=positive, default=16, help="rows in a forward pass (default: 16)")
    group.add_argument(
        "--accumulation", type=positive, default=1, metavar="N", help="forward passes in a step (default: 1)"
    )
    group.add_argument(
        "--learning-rate",
        type=float,
        default=learning_rate,
        help=f"AdamW's largest learning rate (default: {learning_rate:g})",
    )
    group.add_argument(
        "--warmup", type=float, default=0.1, help="share of steps in which the learning rate rises (default: 0.1)"
    )
    group.add_argument(
        "--weight-decay", type=float, default=0.01, help="weight decay of all but biases and LayerNorms (default: 0.01)"
    )
    group.add_argument("--precision", choices=PRECISIONS, default="fp32", help="precision of products (default: fp32)")
    group.add_argument(
        "--evaluate-every",
        type=positive,
        metavar="N",
        help="steps between evaluations and saved states (default: an epoch)",
    )
    group.add_argument("--patience", type=positive, metavar="N", help="stop after N evaluations without a better score")
    group.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    group.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
    group.add_argument("--device", choices=DEVICES, help="where to train (default: cuda, if torch finds a GPU)")


def tell_next(out: Path, *more: str) -> None:
    """Print the command that makes a release of the trained checkpoint. more: further arguments of `yizhi export`."""
    command = ["yizhi", "export", str(out), "--out", str(Path("dist") / out.resolve().name), *more]
    print(f"{out}: metrics.json and training.svg have the scores. Make a release:", file=sys.stderr)
    print(f"  {shlex.join(command)}", file=sys.stderr)


def use_torch_alone() -> None:
    """Before transformers is imported: version 4 would load TensorFlow and JAX too, where it finds them."""
    os.environ |= {"USE_TF": "0", "USE_FLAX": "0"}


def read_settings(options: argparse.Namespace) -> "Settings":
    """Raises InputError, listing every fault."""
    from dataclasses import fields

    from yizhi.training.settings import Settings

    return Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
