"""`yizhi tag`."""

import argparse
import json
import sys

from yizhi.commands.options import JSON_HELP, Commands, add_command
from yizhi.commands.text_options import (
    add_text_options,
    choose_long,
    format_score,
    make_operator,
    on_one_line,
    one_text,
    run_bulk,
)


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "tag",
        run,
        "find the entities of a text, or of every line of a file",
        "Find the entities of a text and the characters where they stand, or give every word its tag.\n"
        "An artifact of an ELECTRA discriminator gives the tokens that look replaced.\n\n"
        '  yizhi tag dist/ner/onnx-int8 "我住在北京的酒店。"\n'
        '  yizhi tag dist/pos/onnx-int8 "我 住 在 北京 的 酒店" --words\n'
        "  yizhi tag dist/ner/onnx-int8 news.txt --output entities.jsonl",
    )
    add_text_options(parser, "a text", pair_column=None)
    every = parser.add_mutually_exclusive_group()
    every.add_argument("--tags", action="store_true", help="give the tag of every word that the tokenizer finds")
    every.add_argument(
        "--words", action="store_true", help="the text is words: a list, or words with spaces between them"
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="read a long text in windows that share N tokens (default: a quarter)",
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    kind = "tag-words" if options.tags or options.words else "tag"
    operator = make_operator(options, kind, long=choose_long(options))
    if options.output:
        return run_bulk(options, operator, options.words)
    with operator.open() as tag:
        text = one_text(options)
        found = tag(text.split() if options.words else text)
    if options.json:
        print(json.dumps([vars(item) for item in found], ensure_ascii=False, indent=2))
        return 0
    for item in found:
        place = "" if item.start is None else f"\t{item.start}:{item.end}"
        print(f"{on_one_line(item.text)}\t{on_one_line(item.label)}\t{format_score(item.score)}{place}")
    if not found:
        print("yizhi: nothing found", file=sys.stderr)
    return 0
