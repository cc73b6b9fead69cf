"""`yizhi classify`."""

import argparse
import json

from yizhi.commands.options import JSON_HELP, Commands, add_command, positive
from yizhi.commands.text_options import add_text_options, make_operator, on_one_line, read_text, run_bulk


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "classify",
        run,
        "label a text, or every line of a file",
        "Give each text's labels with their probabilities, or a regression's value.\n\n"
        '  yizhi classify dist/reviews/onnx-int8 "这个酒店的服务很好。"\n'
        '  yizhi classify dist/similarity/onnx-int8 "怎么退房" --pair "如何办理退房"\n'
        "  yizhi classify dist/reviews/onnx-int8 reviews.csv --column review --output labels.jsonl",
    )
    add_text_options(parser, "a text")
    parser.add_argument("--top-k", type=positive, help="labels per text (default: all)")
    parser.add_argument("--truncate", action="store_true", help="cut a text that is too long for the model")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    long = "truncate" if options.truncate else "error"
    operator = make_operator(options, "classify", top_k=options.top_k, long=long)
    if options.output:
        return run_bulk(options, operator)
    with operator.open() as classify:
        labels = classify(read_text(options))
    if options.json:
        print(json.dumps([vars(label) for label in labels], ensure_ascii=False, indent=2))
    else:
        for label in labels:
            print(f"{on_one_line(label.label)}\t{label.score:.4g}")
    return 0
