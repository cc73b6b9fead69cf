"""`yizhi synthesize`."""

import argparse

from yizhi.commands.options import Commands, add_command, named


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "synthesize",
        run,
        "make a random checkpoint of a given shape",
        "Make a random checkpoint for tests, by default of bert-base-chinese's shape (411 MB). The same seed\n"
        "gives the same bytes everywhere.\n\n"
        "  yizhi synthesize --out build/synthetic\n"
        "  yizhi synthesize --out build/tiny --config tiny/config.json --seed 7\n"
        "  yizhi synthesize --out build/start --config tiny/config.json --untrained     to train from scratch",
    )
    parser.add_argument("--out", type=named, required=True, metavar="CHECKPOINT", help="the folder to write")
    parser.add_argument(
        "--config", type=named, metavar="FILE", help="a config.json (default: bert-base-chinese's shape)"
    )
    parser.add_argument(
        "--vocab", type=named, metavar="FILE", help="a vocab.txt (default: a made-up one, of characters)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="weights to start training from (default: spread like trained weights, with outliers)",
    )
    parser.add_argument("--if-missing", action="store_true", help="do nothing if the folder exists")


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.synthesis import DEFAULT_CONFIG, synthesize
    from yizhi.reading.tokenizer_sources import read_vocab
    from yizhi.storage.json_files import read_json_object

    if options.if_missing and (options.out / "model.safetensors").exists():
        return 0
    config = read_json_object(options.config) if options.config else DEFAULT_CONFIG
    synthesize(
        options.out, config, options.seed, read_vocab(options.vocab) if options.vocab else None, options.untrained
    )
    print(f"{options.out}: random weights from seed {options.seed}")
    return 0
