"""`yizhi inspect`."""

import argparse
import json

from yizhi.commands.options import CHECKPOINT_HELP, JSON_HELP, Commands, add_command, add_ignore_file, make_console


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "inspect",
        run,
        "describe a checkpoint, an artifact or a release",
        "Open a checkpoint and list the use of its tensors and files, or describe an artifact or a release.\n\n"
        "  yizhi inspect ./bert-base-chinese\n"
        "  yizhi inspect dist/bert-base-chinese/onnx",
    )
    parser.add_argument("path", metavar="CHECKPOINT|ARTIFACT|RELEASE", help=CHECKPOINT_HELP)
    parser.add_argument("--revision", help="branch, tag or commit, for a hub id")
    add_ignore_file(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.reports.inspection import describe, print_description

    description = describe(options.path, options.revision, options.ignored_files)
    if options.json:
        print(json.dumps(description, ensure_ascii=False, indent=2))
    else:
        print_description(make_console(), description)
    return 0
