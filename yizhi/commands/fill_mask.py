"""`yizhi fill-mask`."""

import argparse
import json
from pathlib import Path

from yizhi.commands.options import DEVICE_HELP, JSON_HELP, Commands, add_command, positive


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "fill-mask",
        run,
        "answer a sentence's [MASK]",
        "Say which tokens an artifact would put in place of each [MASK].\n\n"
        '  yizhi fill-mask dist/bert-base-chinese/onnx-int8 "北京是[MASK]国的首都。"',
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", help="a sentence with [MASK] in it")
    parser.add_argument("--top-k", type=positive, default=5, help="answers per mask (default: 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=DEVICE_HELP)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from runtimes import open_runtime
    from runtimes.fill_mask import FillMask
    from runtimes.tokenization import Tokenizer

    with open_runtime(options.artifact, device=options.device) as runtime:
        answers = FillMask(runtime, Tokenizer.open(options.artifact))(options.text, top_k=options.top_k)
    if options.json:
        print(json.dumps([[vars(p) for p in mask] for mask in answers], ensure_ascii=False, indent=2))
        return 0
    for number, mask in enumerate(answers, start=1):
        if len(answers) > 1:
            print(f"[MASK] {number}")
        for prediction in mask:
            print(f"{prediction.token}\t{prediction.score:.3f}\t{prediction.sentence}")
    return 0
