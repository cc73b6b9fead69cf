"""`yizhi finetune`."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from yizhi.commands.options import JSON_HELP, Commands, add_command, positive
from yizhi.commands.task_options import PROBLEMS, TASKS, add_data_options, read_columns
from yizhi.commands.training_options import (
    add_run_options,
    add_training_options,
    read_settings,
    tell_next,
    use_torch_alone,
)
from yizhi.errors import InputError
from yizhi.training.choices import BOTTLENECKS, METHODS

if TYPE_CHECKING:
    from yizhi.training.finetune import FinetuningResult
    from yizhi.training.methods import Method


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "finetune",
        run,
        "train a classifier, a tagger or a reader from a checkpoint",
        "Train a checkpoint with a head for a task on labelled data, and write a checkpoint that `yizhi export`\n"
        "takes. The same command continues an interrupted run.\n\n"
        "  yizhi finetune ./rbt3 --task tag --train train.txt --eval dev.txt --out build/ner --freeze-layers 1\n"
        "  yizhi finetune ./rbt3 --task classify --train train.csv --eval dev.csv --out build/reviews\n"
        "  yizhi finetune ./rbt3 --task answer --train cmrc_train.json --eval cmrc_dev.json --out build/reader",
    )
    add_run_options(parser, "labelled data", "labelled data")
    add_data_options(parser, task_required=True)
    parser.add_argument(
        "--new-head", action="store_true", help="replace the checkpoint's head for the task by a random one"
    )
    method = parser.add_argument_group("trained parameters")
    method.add_argument("--method", choices=METHODS, default="full", help="way to train (default: full)")
    method.add_argument(
        "--freeze-layers", type=positive, metavar="N", help="full: do not train the embeddings and the bottom N layers"
    )
    method.add_argument("--lora-rank", type=positive, metavar="R", help="rank of the updates (default: 8)")
    method.add_argument("--lora-alpha", type=positive, metavar="A", help="scale of the updates: A / R (default: 16)")
    method.add_argument(
        "--lora-modules", dest="modules", metavar="NAMES", help="kernels that get updates (default: query,value)"
    )
    method.add_argument("--keep-lora", action="store_true", help="also write peft's folder, OUT/lora")
    method.add_argument("--adapter-kind", choices=BOTTLENECKS, help="kind of the adapter (default: seq_bn)")
    method.add_argument(
        "--adapter-reduction",
        type=positive,
        metavar="R",
        help="hidden size divided by bottleneck size (default: the kind's)",
    )
    add_training_options(parser, epochs=3, learning_rate=5e-5)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.training.requirements import require

    require("torch", "transformers", "accelerate", "peft", "seqeval", "sklearn", "matplotlib")
    if options.method == "adapter":
        require("adapters")
    use_torch_alone()
    from yizhi.reading.hub import resolve_checkpoint
    from yizhi.training.finetune import finetune
    from yizhi.training.tasks.readers import find_reader

    if options.problem and options.task != "classify":
        raise InputError("options", "--problem: needs --task classify")
    reader = find_reader(TASKS[options.task], PROBLEMS.get(options.problem), read_columns(options))
    settings, method = read_settings(options), _read_method(options)
    base = resolve_checkpoint(options.checkpoint, options.revision).path
    outcome = finetune(
        Path(base),
        reader,
        options.train,
        options.eval,
        options.out,
        settings,
        method,
        max_length=options.max_length,
        new_head=options.new_head,
        skip_faulty=options.skip_faulty,
    )
    if options.json:
        print(json.dumps(outcome.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(options.out, outcome)
    return 0


def _read_method(options: argparse.Namespace) -> "Method":
    from yizhi.training.methods import Bottleneck, Full, Lora

    lora = {"rank": options.lora_rank, "alpha": options.lora_alpha, "modules": options.modules}
    lora = {name: value for name, value in lora.items() if value is not None}
    faults = []
    if options.method != "full" and options.freeze_layers:
        what = "LoRA" if options.method == "lora" else "an adapter"
        faults.append(f"--freeze-layers: {what} freezes every layer")
    if options.method != "lora":
        faults += [f"--lora-{name}: needs --method lora" for name in lora]
        faults += ["--keep-lora: needs --method lora"] if options.keep_lora else []
    bottleneck = {"kind": options.adapter_kind, "reduction_factor": options.adapter_reduction}
    bottleneck = {name: value for name, value in bottleneck.items() if value is not None}
    if bottleneck and options.method != "adapter":
        faults.append("--adapter-kind, --adapter-reduction: need --method adapter")
    if faults:
        raise InputError("options", faults)
    if options.method == "adapter":
        return Bottleneck(**bottleneck)
    if options.method == "full":
        return Full(options.freeze_layers or 0)
    if "modules" in lora:
        lora["modules"] = tuple(lora["modules"].split(","))
    return Lora(**lora, keep=options.keep_lora)


def _list(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def _print(out: Path, outcome: "FinetuningResult") -> None:
    for fault in outcome.skipped:
        print(f"left out: {fault}", file=sys.stderr)
    labels = ", ".join(outcome.labels[:12]) + (", …" if len(outcome.labels) > 12 else "")
    print(f"{outcome.examples:,} examples in {outcome.rows:,} rows; {len(outcome.labels)} labels: {labels}")
    if outcome.new:
        print(f"random at first: {', '.join(outcome.new)}")
    resumed = f", from step {outcome.history.resumed_at}" if outcome.history.resumed_at else ""
    print(
        f"trained {outcome.trained / 1e6:.2f} M of {outcome.parameters / 1e6:.2f} M parameters, "
        f"{outcome.history.steps} steps{resumed}, {outcome.seconds:.0f} s"
    )
    if outcome.scores:
        best = f"best at step {outcome.history.best_step}" if outcome.history.best_step else "at the end"
        print(f"{best}: {_list(outcome.scores)}, on {outcome.evaluated:,} examples")
    if outcome.guess:
        print(f"guessing by how often a label is: {_list(outcome.guess)}")
        if outcome.scores[outcome.best] <= outcome.guess[outcome.best]:
            print(f"no better than guessing ({outcome.best}): it needs more data or more steps")
    tell_next(out)
