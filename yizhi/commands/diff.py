"""`yizhi diff`."""

import argparse
import json
from pathlib import Path

from yizhi.commands.options import JSON_HELP, Commands, add_command, make_console, named


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "diff",
        run,
        "show what changed between two releases or checkpoints, and whether vectors and labels still fit",
        "Compare tensors, tokenizers, labels, pooling, tolerances and versions. Ask both the same texts. Say whether\n"
        "stored vectors must be computed again, and whether programs that read the labels must change.\n\n"
        "  yizhi diff dist/reviews-1 dist/reviews-2\n"
        "  yizhi diff ./bert-base-chinese ./bert-finetuned --texts queries.txt --page diff.html\n\n"
        "Exit code: 0 if no answer can change, 1 if an answer can.",
    )
    parser.add_argument("before", type=named, metavar="BEFORE", help="a release's folder, or a checkpoint's")
    parser.add_argument("after", type=named, metavar="AFTER")
    parser.add_argument(
        "--texts", type=named, metavar="FILE", help="a file of texts to ask, one a line (default: everyday sentences)"
    )
    parser.add_argument("--no-answers", action="store_true", help="compare files only, and run no model")
    parser.add_argument("--page", type=named, metavar="FILE", help="also write the result as a page of HTML")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.errors import InputError, show
    from yizhi.parity.diff import compare_sides, describe_side, measure_answers
    from yizhi.release.places import refuse_inside
    from yizhi.reports.difference import print_difference, render_difference
    from yizhi.storage.codec import to_plain
    from yizhi.storage.folders import write_whole
    from yizhi.storage.texts import read_texts

    page: Path | None = options.page
    if page is not None and (not page.name or page.is_dir() or not page.parent.is_dir()):
        raise InputError("`page`", f"expected the name of a file in a folder that exists; found {show(str(page))}")
    if page is not None:
        refuse_inside(page)
    texts = read_texts(options.texts) if options.texts else []
    if options.texts and not texts:
        raise InputError(options.texts, "holds no text")
    before, after = describe_side(options.before), describe_side(options.after)
    moved = None if options.no_answers else measure_answers(before, after, texts)
    difference = compare_sides(before, after, moved)
    if page is not None:
        write_whole(page, render_difference(difference))
    if options.json:
        print(json.dumps({**to_plain(difference), "same": difference.same}, ensure_ascii=False, indent=2))
    else:
        print_difference(make_console(), difference)
    return 0 if difference.same else 1
