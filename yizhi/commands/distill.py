"""`yizhi distill`."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from yizhi.commands.options import CHECKPOINT_HELP, JSON_HELP, Commands, add_command, make_console, named, positive
from yizhi.commands.task_options import add_data_options, read_columns
from yizhi.commands.training_options import add_training_options, read_settings, tell_next, use_torch_alone
from yizhi.errors import InputError, collect_own_faults
from yizhi.training.choices import MASKING
from yizhi.training.distillation_weights import Weights

if TYPE_CHECKING:
    from yizhi.training.distill import DistillationResult
    from yizhi.training.lessons import OpenLesson

_WEIGHTS = {
    "logits": "the teacher's logits, divided by the temperature",
    "hidden": "hidden states, as TinyBERT",
    "relations": "relations between tokens in the last layer, as MiniLM",
    "labels": "the labels, or the masked tokens, themselves",
    "temperature": "what logits are divided by",
}
_OF_TEXT = ("eval_text", "masking", "segmenter", "line_by_line")
_OF_LABELS = ("eval", "unlabelled", "column", "pair_column", "label_column", "skip_faulty")


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "distill",
        run,
        "train a student of fewer layers from a checkpoint",
        "Make a checkpoint of chosen layers of another one, its teacher, and let it learn what the teacher says:\n"
        "on plain text for a masked-language model, on labelled data for a classifier or a tagger. The result is\n"
        "a checkpoint that `yizhi export` takes. The same command again goes on where an interrupted one was.\n\n"
        "  yizhi distill ./roberta-wwm-ext --layers 3 --text news.txt --eval-text held-out.txt --out build/student\n"
        "  yizhi distill ./reviews --layers 0,5,11 --train train.csv --eval dev.csv --out build/small",
    )
    parser.add_argument("checkpoint", metavar="teacher", help=CHECKPOINT_HELP)
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    parser.add_argument(
        "--layers", type=_layers, required=True, metavar="N", help="how many from the bottom; or their numbers: 0,5,11"
    )
    parser.add_argument("--out", type=named, required=True, metavar="CHECKPOINT", help="the new folder to write")
    parser.add_argument(
        "--baseline", action="store_true", help="train the same student without its teacher too, and compare"
    )
    parser.add_argument(
        "--max-length", type=positive, metavar="N", help="tokens of a row (default: 128 of text, the model's of labels)"
    )
    losses = parser.add_argument_group("losses", "how much each counts; 0 leaves it out")
    for name, what in _WEIGHTS.items():
        default = getattr(Weights, name)
        losses.add_argument(
            f"--{name}", type=float, default=default, metavar="W", help=f"{what} (default: {default:g})"
        )
    text = parser.add_argument_group("plain text")
    text.add_argument("--text", type=named, nargs="+", metavar="FILE", help="plain text in UTF-8")
    text.add_argument("--eval-text", type=named, nargs="+", metavar="FILE", help="to score, and to keep the best by")
    text.add_argument(
        "--masking", choices=[name for name in MASKING if name != "macbert"], help="as `yizhi pretrain` (wwm)"
    )
    text.add_argument("--segmenter", metavar="NAME", help="as `yizhi pretrain` (jieba)")
    text.add_argument("--line-by-line", action="store_true", help="a sequence for each line, not packed together")
    add_data_options(parser, task_required=False)
    parser.add_argument("--train", type=named, metavar="FILE", help="labelled data to train on")
    parser.add_argument("--eval", type=named, metavar="FILE", help="labelled data to score, and to keep the best by")
    parser.add_argument(
        "--unlabelled", type=named, nargs="+", metavar="FILE", help="more texts to train on, which the teacher labels"
    )
    add_training_options(parser, epochs=3, learning_rate=5e-5)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def _layers(text: str) -> int | tuple[int, ...]:
    """`3`, or `0,5,11`; a single layer is `11,`."""
    parts = text.removesuffix(",").split(",")
    if not all(part.isascii() and part.isdigit() for part in parts) or text == "0":
        raise argparse.ArgumentTypeError(f"expected a number of layers, or numbers such as 0,5,11; found {text!r}")
    return tuple(map(int, parts)) if "," in text else int(text)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.training.requirements import require

    _check(options)
    require("torch", "transformers", "accelerate", "matplotlib", *(() if options.text else ("seqeval", "sklearn")))
    use_torch_alone()
    from yizhi.reading.hub import resolve_checkpoint
    from yizhi.training.distill import distill

    faults: list[str] = []
    chosen = {name: getattr(options, name) for name in _WEIGHTS}
    weights = collect_own_faults(faults, lambda: Weights(**chosen))
    settings = collect_own_faults(faults, lambda: read_settings(options))
    if weights is None or settings is None:
        raise InputError("options", faults)
    base = Path(resolve_checkpoint(options.checkpoint, options.revision).path)
    outcome = distill(
        base,
        options.layers,
        options.out,
        settings,
        weights,
        _open_lesson(options),
        baseline=options.baseline,
    )
    if options.json:
        print(json.dumps(outcome.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(options.out, outcome)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise InputError, listing every fault, unless there is one kind of data with options of its own."""
    if bool(options.text) == bool(options.train):
        raise InputError("data", "expected either `text` or `train`")
    others, needed = (_OF_LABELS, "train") if options.text else (_OF_TEXT, "text")
    faults = [f"`{name}`: needs `{needed}`" for name in others if getattr(options, name)]
    if faults:
        raise InputError("options", faults)


def _open_lesson(options: argparse.Namespace) -> "OpenLesson":
    from yizhi.training.lessons import from_labels, from_text
    from yizhi.training.pretrain import Objective

    if options.train:
        columns = read_columns(options)
        more = tuple(options.unlabelled or ())
        return from_labels(options.train, options.eval, columns, options.max_length, options.skip_faulty, more)
    return from_text(
        Objective(
            text=tuple(options.text),
            evaluation=tuple(options.eval_text or ()),
            masking=options.masking or "wwm",
            segmenter=options.segmenter or "jieba",
            line_by_line=options.line_by_line,
            max_length=options.max_length,
        )
    )


def _print(out: Path, outcome: "DistillationResult") -> None:
    from yizhi.reports.plain_table import PlainTable

    for fault in outcome.skipped:
        print(f"left out: {fault}", file=sys.stderr)
    sides = {"teacher": outcome.teacher, "student": outcome.student, "student, alone": outcome.baseline}
    table = PlainTable()
    scores = list(outcome.student.scores)
    for name in ("", "layers", "parameters", *scores, *(["kept"] if scores else [])):
        table.add_column(name, justify="right" if name else "left")
    for name, side in sides.items():
        if side:
            whole = outcome.teacher.scores.get(outcome.compared)
            kept = [f"{side.scores[outcome.compared] / whole:.1%}" if whole else "–"] if scores else []
            found = [f"{side.scores[score]:.4f}" for score in scores]
            table.add_row(name, str(side.layers), f"{side.parameters / 1e6:.2f} M", *found, *kept)
    make_console().print(table)
    history = outcome.history
    resumed = f", from step {history.resumed_at}" if history.resumed_at else ""
    said = f"; kept: share of the teacher's {outcome.compared}" if scores else ""
    print(f"{history.steps} steps{resumed}, {outcome.seconds:.0f} s{said}")
    print(f"the student is {outcome.speedup:.2f} times as fast as its teacher, for one batch on this CPU")
    if outcome.baseline and scores and _is_no_better(outcome):
        print(f"no better than alone ({outcome.compared}): give it other texts, more steps or other losses")
    if outcome.pooling:
        print(f"the student keeps its teacher's pooling, {outcome.pooling}; its vectors were neither taught nor scored")
    tell_next(out)


def _is_no_better(outcome: "DistillationResult") -> bool:
    alone = outcome.baseline.scores[outcome.compared] if outcome.baseline else 0.0
    return outcome.student.scores[outcome.compared] <= alone
