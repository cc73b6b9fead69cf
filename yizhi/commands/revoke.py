"""`yizhi revoke`."""

import argparse
import re
from pathlib import Path

from yizhi.commands.options import Commands, add_command, named
from yizhi.commands.signer_options import add_signer, open_signer


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "revoke",
        run,
        "add a release to a signed list of withdrawn ones",
        "Add a release to a list of withdrawn releases, or start one, and sign the list. `yizhi verify --revoked`\n"
        "rejects the releases of the list. The sha256 of manifest.json names a release.\n\n"
        '  yizhi revoke dist/bert-base-chinese --list withdrawn.sigstore.json --reason "labels swapped" \\\n'
        "      --key release.key",
    )
    parser.add_argument("release", metavar="RELEASE|SHA256", help="the release, or its manifest's sha256")
    parser.add_argument(
        "--list", type=named, required=True, metavar="FILE", help="the list to add to; a new one, if the file is absent"
    )
    parser.add_argument("--reason", required=True, metavar="TEXT", help="the reason, in one line")
    add_signer(parser)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.release.manifest import MANIFEST, read_manifest
    from yizhi.release.revocation import withdraw
    from yizhi.storage.digests import sha256_of_file

    sha256 = options.release
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        read_manifest(Path(options.release))
        sha256 = sha256_of_file(Path(options.release) / MANIFEST)
    found = withdraw(options.list, sha256, options.reason, open_signer(options))
    print(f"{options.list}: {len(found.withdrawn)} withdrawn, signed by {found.signer}")
    return 0
