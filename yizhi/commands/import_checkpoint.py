"""`yizhi import`."""

import argparse
import json

from yizhi.choices import PRECISIONS
from yizhi.commands.options import JSON_HELP, Commands, add_command, add_ignore_file, make_console, named


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "import",
        run,
        "make a checkpoint from another project's files",
        "Read a PyTorch .bin release (a zip or a folder), a Google TF1 checkpoint, a UER-py .bin, a Keras .h5, a\n"
        "Flax .msgpack, safetensors of any kind, or one of Yizhi's own artifacts, and write the canonical folder\n"
        "that the other commands take. Nothing in the source is run. If there is a fault, nothing is written.\n\n"
        "  yizhi import chinese_wwm_ext_pytorch.zip --out ./bert-wwm-ext\n"
        "  yizhi import chinese_L-12_H-768_A-12 --out ./bert-base-chinese\n"
        "  yizhi import model.bin --config models/bert/base_config.json --vocab google_zh_vocab.txt --out ./uer\n"
        "  yizhi import bert-base-chinese --adapter ./sentiment-adapter --out ./bert-sentiment\n"
        "  yizhi import ./lora-sentiment --base bert-base-chinese --out ./bert-sentiment",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder, a zip, a file of weights, or a TF1 checkpoint's prefix"
    )
    parser.add_argument("--out", type=named, required=True, metavar="CHECKPOINT", help="the new folder to write")
    parser.add_argument("--config", type=named, metavar="FILE", help="the configuration, if not beside the weights")
    parser.add_argument("--vocab", type=named, metavar="FILE", help="the vocabulary, if not beside the weights")
    parser.add_argument(
        "--adapter", type=named, metavar="FOLDER", help="an adapter to put in: the adapters library's, or peft's LoRA"
    )
    parser.add_argument(
        "--base",
        type=named,
        metavar="CHECKPOINT",
        help="the checkpoint of an adapter, where SOURCE is the adapter's folder",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the written weights; bf16: leave in bfloat16 what the source has in bfloat16 (default: fp32)",
    )
    add_ignore_file(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.reading.importers import import_checkpoint
    from yizhi.reports.imported import print_report

    report = import_checkpoint(
        options.source,
        options.out,
        options.config,
        options.vocab,
        options.adapter,
        options.base,
        options.ignored_files,
        options.precision,
    )
    if options.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        print_report(make_console(), report)
    return 0
