"""`yizhi verify`."""

import argparse
import os
from pathlib import Path

from converters.targets import find_targets
from yizhi.commands.options import DEVICE_HELP, JSON_HELP, Commands, add_command, add_require_mlm, finish, positive


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "verify",
        run,
        "check a finished release or one artifact",
        "Check that no file was altered, then run every artifact against the golden outputs that\n"
        "travel with the release. Exit code 1, with the file or the first layer that differs, if not.\n\n"
        "  yizhi verify dist/bert-base-chinese\n"
        "  yizhi verify dist/bert-base-chinese/onnx-int8",
    )
    parser.add_argument("path", type=Path, metavar="RELEASE|ARTIFACT")
    parser.add_argument("--target", action="append", metavar="T", help="only this target of the release")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=DEVICE_HELP)
    parser.add_argument(
        "--jobs", type=positive, default=os.cpu_count(), help="processes at once (default: a core each)"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write parity.json there")
    add_require_mlm(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.progress import Progress
    from yizhi.results import write_report
    from yizhi.verify import verify_path

    targets = find_targets(options.target)
    with Progress() as progress:
        rows = verify_path(options.path, targets if options.target else None, options.device, options.jobs, progress)
    if options.report:
        write_report(options.report, rows)
    return finish(rows, options.path, options.json, options.require_mlm)
