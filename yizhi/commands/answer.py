"""`yizhi answer`."""

import argparse
import json

from yizhi.commands.options import JSON_HELP, Commands, add_command, positive
from yizhi.commands.text_options import (
    add_text_options,
    choose_long,
    format_score,
    make_operator,
    on_one_line,
    run_bulk,
)
from yizhi.errors import InputError


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "answer",
        run,
        "answer a question from a text, or every question of a file",
        "Find the answer to a question in a text, the context, and the characters where the answer stands.\n\n"
        '  yizhi answer dist/reader/onnx-int8 "首都是哪里？" "北京是中国的首都。"\n'
        "  yizhi answer dist/reader/onnx-int8 questions.jsonl --output answers.jsonl",
    )
    add_text_options(
        parser,
        "the question",
        column=("--question-column", "question", "the question"),
        pair_column=("--context-column", "context", "the context"),
    )
    parser.add_argument("context", nargs="?", help="the text that holds the answer")
    parser.add_argument("--top-k", type=positive, default=1, help="answers per question (default: 1)")
    parser.add_argument(
        "--max-answer-tokens", type=positive, default=30, metavar="N", help="the longest answer (default: 30)"
    )
    parser.add_argument(
        "--no-answer", action="store_true", help="allow the answer that there is none, as SQuAD 2.0 does"
    )
    parser.add_argument(
        "--no-answer-threshold",
        type=float,
        metavar="X",
        help="as --no-answer: the lead over the best span that no answer needs, in logits (default: 0)",
    )
    parser.add_argument(
        "--stride", type=int, metavar="N", help="read long contexts in windows that share N tokens (default: a quarter)"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    if (options.context is None) != (options.output is not None):
        raise InputError("answer", "expected a question and its context, or a file of them with --output")
    threshold = 0.0 if options.no_answer and options.no_answer_threshold is None else options.no_answer_threshold
    operator = make_operator(
        options,
        "answer",
        top_k=options.top_k,
        max_answer_tokens=options.max_answer_tokens,
        no_answer=threshold,
        long=choose_long(options),
    )
    if options.output:
        return run_bulk(options, operator)
    with operator.open() as read:
        answers = read((options.text, options.context))
    if options.json:
        print(json.dumps([vars(answer) for answer in answers], ensure_ascii=False, indent=2))
        return 0
    for answer in answers:
        text, place = on_one_line(answer.text), f"\t{answer.start}:{answer.end}"
        if answer.start is None:
            text, place = "no answer", ""
        print(f"{text}\t{format_score(answer.score)}{place}")
    return 0
