"""The command line: finds the command, and turns errors into exit codes."""

import argparse
import sys

from yizhi import __version__
from yizhi.commands import (
    answer,
    classify,
    diff,
    embed,
    export,
    fill_mask,
    finetune,
    import_checkpoint,
    inspect,
    int8_report,
    models,
    package,
    pretrain,
    sign,
    synthesize,
    tag,
    train_embeddings,
    verify,
)
from yizhi.commands.options import name_flags
from yizhi.errors import CheckFailed, InputError

COMMANDS = (
    export,
    verify,
    diff,
    sign,
    package,
    int8_report,
    inspect,
    models,
    import_checkpoint,
    synthesize,
    pretrain,
    finetune,
    train_embeddings,
    fill_mask,
    classify,
    tag,
    answer,
    embed,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0 if all is good, 1 if a check failed, 2 for bad usage or input, 3 if not all ran."""
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except InputError as error:
        print(f"yizhi: {name_flags(str(error), options.parser)}", file=sys.stderr)
        return 2
    except CheckFailed as error:
        print(f"yizhi: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        print(f"yizhi: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("yizhi: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Every command with its help."""
    parser = argparse.ArgumentParser(
        prog="yizhi",
        description="One checkpoint, every runtime, proven identical.",
        epilog="Exit codes: 0 good; 1 a check failed; 2 bad usage or bad input; 3 nothing failed, but something was "
        "not run or not judged.",
    )
    parser.add_argument("--version", action="version", version=f"yizhi {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
