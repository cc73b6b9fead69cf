"""`yizhi pretrain`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from yizhi.commands.options import CHECKPOINT_HELP, JSON_HELP, Commands, add_command, make_console, named, positive
from yizhi.commands.training_options import add_training_options, read_settings, tell_next, use_torch_alone
from yizhi.errors import InputError
from yizhi.training.choices import MASKING, PAIRS

if TYPE_CHECKING:
    from yizhi.training.masking import Statistics
    from yizhi.training.pretrain import Objective, PretrainingResult


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "pretrain",
        run,
        "continue pretraining a checkpoint on your own text",
        "Keep pretraining on plain text: a sentence or a paragraph on each line, an empty line between documents.\n"
        "The result is a checkpoint that `yizhi export` takes. The same command again goes on where an interrupted\n"
        "one was.\n\n"
        "  yizhi pretrain ./rbt3 --text news.txt --eval-text held-out.txt --out build/rbt3-news\n"
        "  yizhi pretrain ./rbt3 --text news.txt --show-masking 3\n"
        "  yizhi pretrain ./macbert --text news.txt --masking macbert --word-vectors vectors.txt --pairs sop --out …",
    )
    parser.add_argument("checkpoint", help=CHECKPOINT_HELP)
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    parser.add_argument("--out", type=named, metavar="CHECKPOINT", help="the new folder to write")
    parser.add_argument("--text", type=named, nargs="+", required=True, metavar="FILE", help="plain text in UTF-8")
    parser.add_argument(
        "--eval-text", type=named, nargs="+", metavar="FILE", help="text to score, and to keep the best by"
    )
    parser.add_argument("--new-head", action="store_true", help="begin a head at random where the checkpoint has none")
    masking = parser.add_argument_group("masking")
    masking.add_argument(
        "--masking",
        choices=MASKING,
        default="wwm",
        help="tokens; whole words (default); runs of 1 to 4 words; such runs, with similar words in their place",
    )
    masking.add_argument(
        "--segmenter",
        default="jieba",
        metavar="NAME",
        help="what tells words: jieba (default), spaces (the text has them), or your module:function",
    )
    masking.add_argument("--similar-words", type=named, metavar="FILE", help="macbert: lines `word similar similar …`")
    masking.add_argument("--word-vectors", type=named, metavar="FILE", help="macbert: word vectors as word2vec's text")
    masking.add_argument("--vectors", type=positive, metavar="N", help="read the first N of them (default: all)")
    masking.add_argument(
        "--show-masking", type=positive, metavar="N", help="print N masked sequences and what was masked; train nothing"
    )
    sequences = parser.add_argument_group("sequences")
    sequences.add_argument(
        "--max-length", type=positive, metavar="N", help="tokens (default: 128, or the model's most)"
    )
    sequences.add_argument("--line-by-line", action="store_true", help="a sequence for each line, not packed together")
    sequences.add_argument(
        "--pairs",
        choices=PAIRS,
        help="also learn whether two segments follow each other, or which comes first",
    )
    add_training_options(parser, epochs=3, learning_rate=5e-5)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.training.requirements import require

    if not options.out and not options.show_masking:
        raise InputError("--out", "expected a folder to write (or --show-masking)")
    require("torch", "transformers", "accelerate", "matplotlib")
    use_torch_alone()
    from yizhi.reading.hub import resolve_checkpoint
    from yizhi.training.pretrain import is_done, pretrain

    objective, settings = _read_objective(options), read_settings(options)
    base = Path(resolve_checkpoint(options.checkpoint, options.revision).path)
    if options.show_masking:
        return _show(base, objective, settings.seed, options)
    if is_done(base, objective, options.out, settings):
        print(f"{options.out}: up to date")
        return 0
    outcome = pretrain(base, objective, options.out, settings, options.new_head)
    if options.json:
        print(json.dumps(outcome.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(options.out, outcome)
    return 0


def _read_objective(options: argparse.Namespace) -> "Objective":
    from yizhi.training.pretrain import Objective

    same = ("masking", "segmenter", "similar_words", "word_vectors", "vectors", "pairs", "line_by_line", "max_length")
    return Objective(
        text=tuple(options.text),
        evaluation=tuple(options.eval_text or ()),
        **{name: getattr(options, name) for name in same},
    )


def _show(base: Path, objective: "Objective", seed: int, options: argparse.Namespace) -> int:
    from yizhi.reading.checkpoint import Checkpoint
    from yizhi.training.pretrain import count_masking, prepare, show_masking

    with Checkpoint.open(base) as checkpoint:
        prepared = prepare(checkpoint, objective, seed)
    shown, statistics = show_masking(prepared, options.show_masking), count_masking(prepared)
    if options.json:
        masked = [{"what": what, "share": share, "paper": paper} for what, share, paper in statistics.rows()]
        print(json.dumps({"shown": shown, "masked": masked, "unknown": prepared.unknown}, ensure_ascii=False, indent=2))
        return 0
    print("\n".join(shown))
    print(
        f"\n{len(prepared.train):,} sequences, {len(prepared.corpus.ids):,} tokens ({prepared.unknown:.2%} [UNK]); "
        f"one epoch of {objective.masking}:"
    )
    _print_statistics(statistics)
    return 0


def _print_statistics(statistics: "Statistics") -> None:
    from yizhi.reports.plain_table import PlainTable

    table = PlainTable()
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("paper", justify="right")
    for what, share, paper in statistics.rows():
        table.add_row(what, f"{share:.2%}", "" if paper is None else f"{paper:.0%}")
    make_console().print(table)


def _print(out: Path, outcome: "PretrainingResult") -> None:
    history = outcome.history
    resumed = f", from step {history.resumed_at}" if history.resumed_at else ""
    print(
        f"{outcome.sequences:,} sequences, {outcome.tokens:,} tokens; "
        f"{history.steps} steps{resumed}, {outcome.seconds:.0f} s"
    )
    if outcome.new:
        print(f"random at first: {', '.join(outcome.new)}")
    _print_statistics(outcome.statistics)
    if outcome.scores:
        best = f"best at step {history.best_step}" if history.best_step else "at the end"
        print(f"{best}: {', '.join(f'{name} {value:.4f}' for name, value in outcome.scores.items())}")
    tell_next(out)
