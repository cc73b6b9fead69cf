"""`yizhi trim-vocab`."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from yizhi.commands.options import CHECKPOINT_HELP, JSON_HELP, Commands, add_command, make_console, named, positive

if TYPE_CHECKING:
    from yizhi.pipeline.trimming import Comparison, TrimReport


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "trim-vocab",
        run,
        "make a checkpoint smaller: drop the tokens that your text never needs",
        "Write a smaller checkpoint for text like yours. Drop the tokens that the text never needs from the tables\n"
        "and the tokenizer; keep every other weight. Before anything is written, compare both tokenizers on every\n"
        "line of the text. `vocab_map.json` has the old id of each token.\n\n"
        "  yizhi trim-vocab hfl/rbt3 --text messages.txt --check held-out.txt --out ./rbt3-messages\n"
        "  yizhi trim-vocab ./reviews --text reviews.txt --min-count 5 --out ./reviews-small",
    )
    parser.add_argument("checkpoint", help=CHECKPOINT_HELP)
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    parser.add_argument("--text", type=named, nargs="+", required=True, metavar="FILE", help="plain text in UTF-8")
    parser.add_argument("--out", type=named, required=True, metavar="CHECKPOINT", help="the new folder to write")
    parser.add_argument(
        "--min-count",
        type=positive,
        default=1,
        metavar="N",
        help="also drop tokens that come less than N times, except single characters (default: 1)",
    )
    parser.add_argument(
        "--check",
        type=named,
        nargs="+",
        default=[],
        metavar="FILE",
        help="other text: print the share of its tokens that become [UNK]",
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.trimming import trim_vocab
    from yizhi.reading.hub import resolve_checkpoint

    base = Path(resolve_checkpoint(options.checkpoint, options.revision).path)
    report = trim_vocab(base, options.text, options.out, options.min_count, options.check)
    if options.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(report)
        export = ["yizhi", "export", str(options.out), "--out", str(Path("dist") / options.out.resolve().name)]
        print(f"{options.out}: make a release of it:\n  {shlex.join(export)}", file=sys.stderr)
    return 0


def _print(report: "TrimReport") -> None:
    from yizhi.reports.plain_table import PlainTable

    table = PlainTable()
    for name in ("", "before", "after"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("rows", *(f"{rows:,}" for rows in report.rows))
    table.add_row("tables", *(f"{size / 1e6:.1f} MB" for size in report.table_bytes))
    table.add_row("weights", *(f"{size / 1e6:.1f} MB" for size in report.bytes))
    table.add_row("[UNK] in the text", *(f"{share:.2%}" for share in report.text.unknown_share))
    if report.check:
        table.add_row("[UNK] in the other text", *(f"{share:.2%}" for share in report.check.unknown_share))
    make_console().print(table)
    print(_say_lines("text", report.text))
    if report.check:
        print(_say_lines("other text", report.check))
    for name, reason in report.left_out.items():
        print(f"{name}: not written: {reason}")
    for note in report.notes:
        print(note)


def _say_lines(what: str, compared: "Comparison") -> str:
    changed = compared.lines - compared.same
    same = f"{compared.same:,} of {compared.lines:,} lines of the {what} have the same tokens"
    return f"{same}; {changed:,} are cut otherwise" if changed else same
