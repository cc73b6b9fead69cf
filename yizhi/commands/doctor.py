"""`yizhi doctor`."""

import argparse
import json
from dataclasses import asdict

from yizhi.commands.options import JSON_HELP, Commands, add_command, make_console


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "doctor",
        run,
        "show which targets this machine can make and run, and what to install for the rest",
        "Look at the processor, at Python and at the installed packages. Nothing is run and nothing is changed.\n\n"
        "  yizhi doctor\n"
        "  yizhi doctor --json",
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.examination import examine
    from yizhi.reports.doctor import print_examination

    found = examine()
    if options.json:
        print(json.dumps(asdict(found), ensure_ascii=False, indent=2))
    else:
        print_examination(make_console(), found)
    return 0
