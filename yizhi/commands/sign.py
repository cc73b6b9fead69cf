"""`yizhi sign`."""

import argparse
from pathlib import Path

from yizhi.commands.options import Commands, add_command


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "sign",
        run,
        "sign a finished release",
        "Sign every file of a release with your key, into its model.sig (OpenSSF model signing).\n"
        "Verify it first: a signature says who released it, not that it is right.\n\n"
        "  openssl ecparam -name prime256v1 -genkey -noout -out release.key\n"
        "  openssl ec -in release.key -pubout -out release.pub\n"
        "  yizhi sign dist/bert-base-chinese --key release.key\n"
        "  yizhi verify dist/bert-base-chinese --public-key release.pub",
    )
    parser.add_argument("release", type=Path, metavar="RELEASE")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="elliptic-curve private key, PEM")


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.release.signing import sign

    print(sign(options.release, options.key))
    return 0
