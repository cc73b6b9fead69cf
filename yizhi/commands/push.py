"""`yizhi push`."""

import argparse
import json
from typing import TYPE_CHECKING

from yizhi.commands.options import JSON_HELP, Commands, add_command, named
from yizhi.commands.signer_options import add_checker, open_checker
from yizhi.errors import printable

if TYPE_CHECKING:
    from yizhi.registries.transfer import Push


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "push",
        run,
        "send a release to the Hugging Face hub or to an OCI registry",
        "Check every file of a release, read the address, and print what would be sent. Nothing is sent without\n"
        "--yes. The address then points at the former release or at this one, never at a part of it.\n\n"
        "  yizhi push dist/bert-base-chinese --to hf://my-org/bert-base-chinese\n"
        "  yizhi push dist/bert-base-chinese --to oci://registry.example.org/models/bert-base-chinese:1.0 --yes",
    )
    parser.add_argument("release", type=named, metavar="RELEASE")
    parser.add_argument(
        "--to", required=True, metavar="ADDRESS", help="hf://ORG/NAME[@BRANCH] or oci://HOST[:PORT]/NAME:TAG"
    )
    parser.add_argument(
        "--yes", dest="send", action="store_true", help="send the release (default: only print what would be sent)"
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="make a repository that the hub creates public (default: private)",
    )
    add_checker(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.pipeline.progress import Progress
    from yizhi.registries.transfer import push

    if checker := open_checker(options):
        from yizhi.release.signing import check_signature

        check_signature(options.release, checker)
    with Progress() as progress:
        done = push(options.release, options.to, options.send, options.public, progress.note)
    if options.json:
        print(json.dumps(done.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(done)
    return 0


def _print(done: "Push") -> None:
    """Print every file with its size and digest, the destination, the replaced version, and the next step."""
    from yizhi.reports.tables import format_bytes

    missing = set(done.missing)
    for file in done.files:
        print(f"{'send' if file.path in missing else 'there':5}  {file.sha256:.12}  {file.size:>12}  {file.path}")
    for path in done.removed:
        print(f"{'remove':33}  {printable(path)}")
    size = sum(file.size or 0 for file in done.files)
    print(f"{len(done.files)} files, {format_bytes(size)}: manifest {done.manifest}")
    if done.same:
        print(f"{done.to}: has this release already: {done.version}")
        return
    replaced = f"instead of {done.replaces}" if done.replaces else "where nothing is yet"
    if done.version:
        print(f"{done.to}: {done.version}, {replaced}")
        return
    to_send = format_bytes(sum({file.sha256: file.size or 0 for file in done.files if file.path in missing}.values()))
    print(f"{done.to}: would be written, {replaced}: {to_send} to send. Nothing was sent: add --yes")
