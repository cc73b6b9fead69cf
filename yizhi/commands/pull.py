"""`yizhi pull`."""

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from yizhi.commands.options import JSON_HELP, Commands, add_command, finish, named
from yizhi.commands.signer_options import add_checker, open_checker
from yizhi.converters.targets import find_targets
from yizhi.errors import InputError

if TYPE_CHECKING:
    from yizhi.registries.transfer import Pull


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "pull",
        run,
        "get a release from the Hugging Face hub or from an OCI registry",
        "Download a release into a new folder and check every file against its manifest. The folder is\n"
        "complete or absent. `yizhi verify` compares the outputs; --verify does so at once.\n\n"
        "  yizhi pull hf://my-org/bert-base-chinese --out dist/bert-base-chinese\n"
        "  yizhi pull oci://registry.example.org/models/bert-base-chinese:1.0 --out dist/bert --target onnx-int8",
    )
    parser.add_argument(
        "source", metavar="ADDRESS", help="hf://ORG/NAME[@REVISION], oci://HOST[:PORT]/NAME:TAG or …/NAME@sha256:…"
    )
    parser.add_argument("--out", type=named, required=True, metavar="RELEASE", help="the folder to write")
    parser.add_argument(
        "--target",
        dest="targets",
        action="append",
        metavar="T",
        help="download this artifact alone, with documents and golden outputs",
    )
    add_checker(parser)
    parser.add_argument("--verify", action="store_true", help="then compare the outputs, as `yizhi verify` does")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.progress import Progress
    from yizhi.registries.transfer import pull

    targets = find_targets(options.targets)
    check = None
    if checker := open_checker(options):
        from yizhi.release.signing import check_signature

        if options.targets:
            raise InputError("`targets`", "a signature covers every file of a release: leave it out")
        check = partial(check_signature, checker=checker)
    with Progress() as progress:
        done = pull(options.source, options.out, options.targets, check, progress.note)
    if not options.verify:
        if options.json:
            print(json.dumps(done.as_dict(), ensure_ascii=False, indent=2))
        else:
            _print(done, options.out, options.targets)
        return 0
    from yizhi.pipeline.recheck import verify_path

    with Progress() as progress:
        rows = verify_path(options.out, targets if options.targets else None, "cpu", os.cpu_count() or 1, progress)
    return finish(rows, options.out, options.json)


def _print(done: "Pull", out: Path, targets: list[str] | None) -> None:
    """Print the files, their source, and the command that compares the outputs."""
    from yizhi.reports.tables import format_bytes

    print(f"{out}: {', '.join(done.targets)}: {done.files} files, {format_bytes(done.size)}, as the manifest says")
    print(f"from {done.source}: {done.version}")
    chosen = "".join(f" --target {target}" for target in targets or ())
    print(f"To compare its outputs too: yizhi verify {out}{chosen}")
