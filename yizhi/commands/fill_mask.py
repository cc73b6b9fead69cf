"""`yizhi fill-mask`."""

import argparse
import json
from typing import TYPE_CHECKING

from yizhi.choices import SCORINGS
from yizhi.commands.options import JSON_HELP, Commands, add_command, positive
from yizhi.commands.text_options import add_text_options, format_score, make_operator, read_text, run_bulk
from yizhi.errors import InputError

if TYPE_CHECKING:
    from yizhi.runtimes import Prediction


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "fill-mask",
        run,
        "answer the [MASK]s of a sentence, or of every line of a file",
        "Say which tokens an artifact would put in place of each [MASK].\n\n"
        '  yizhi fill-mask dist/bert-base-chinese/onnx-int8 "北京是[MASK]国的首都。"\n'
        '  yizhi fill-mask dist/bert-base-chinese/onnx-int8 "北京是[MASK]的首都。" --targets 中国 美国\n'
        "  yizhi fill-mask dist/bert-base-chinese/onnx-int8 sentences.txt --output answers.jsonl",
    )
    add_text_options(parser, "a sentence with [MASK] in it")
    parser.add_argument("--top-k", type=positive, default=5, help="answers per mask (default: 5)")
    parser.add_argument(
        "--targets", nargs="+", metavar="WORD", help="score these words only; a word may be several tokens"
    )
    parser.add_argument(
        "--scoring",
        choices=SCORINGS,
        default="joint",
        help="for a word of several tokens: hide all of them at once (joint, the default), or one at a time (pseudo)",
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    long = parser.add_mutually_exclusive_group()
    long.add_argument("--truncate", action="store_true", help="cut a text that is too long for the model")
    long.add_argument("--stride", type=int, metavar="N", help="read a long text in windows that share N tokens")


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    if options.stride is not None and options.stride < 0:
        raise InputError("--stride", f"expected 0 or more; found {options.stride}")
    operator = make_operator(
        options,
        "fill-mask",
        top_k=options.top_k,
        targets=options.targets,
        scoring=options.scoring,
        long="truncate" if options.truncate else "error" if options.stride is None else options.stride,
    )
    if options.output:
        return run_bulk(options, operator)
    with operator.open() as fill:
        answers = fill(read_text(options))
    if options.json:
        print(json.dumps([[vars(p) for p in mask] for mask in answers], ensure_ascii=False, indent=2))
    else:
        _print_answers(answers)
    return 0


def _print_answers(answers: "list[list[Prediction]]") -> None:
    for number, mask in enumerate(answers, start=1):
        if len(answers) > 1:
            print(f"[MASK] {number}")
        for prediction in mask:
            sentence = prediction.sentence
            shown = sentence if isinstance(sentence, str) else " ‖ ".join(sentence)
            print(f"{prediction.token}\t{format_score(prediction.score)}\t{shown}")
