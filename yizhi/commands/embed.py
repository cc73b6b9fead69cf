"""`yizhi embed`."""

import argparse
import json

from yizhi.choices import TEXT_POOLINGS
from yizhi.commands.options import Commands, add_command
from yizhi.commands.text_options import add_text_options, make_operator, read_text, run_bulk


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "embed",
        run,
        "turn a sentence, or every line of a file, into a vector",
        "Give each text's vector: as the artifact was exported with --pooling, else the mean of its tokens' last\n"
        "hidden states, unless asked for another.\n\n"
        '  yizhi embed dist/bert-base-chinese/onnx-int8 "北京是中国的首都。"\n'
        "  yizhi embed dist/bert-base-chinese/onnx-int8 sentences.txt --output vectors.npy --normalize",
    )
    add_text_options(parser, "a sentence", formats=".jsonl, .parquet, .npy or .safetensors")
    parser.add_argument(
        "--layer",
        type=int,
        nargs="+",
        default=[-1],
        metavar="N",
        help="hidden states to average: 0 the embeddings, 1 … the layers, -1 the last (default: -1)",
    )
    parser.add_argument(
        "--pooling",
        choices=TEXT_POOLINGS,
        help="over the text's own tokens; none gives each token's vector (default: as exported, else mean)",
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="make each vector's L2 norm 1 (default: as exported with this pooling, else no)",
    )
    parser.add_argument("--truncate", action="store_true", help="cut what is too long for the model")


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    operator = make_operator(
        options,
        "embed",
        layers=options.layer,
        pooling=options.pooling,
        normalize=options.normalize,
        long="truncate" if options.truncate else "error",
    )
    if options.output:
        return run_bulk(options, operator)
    with operator.open() as embed:
        print(json.dumps(embed([read_text(options)])[0].astype(float).round(8).tolist()))
    return 0
