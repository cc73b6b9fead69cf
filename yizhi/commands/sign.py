"""`yizhi sign`."""

import argparse

from yizhi.commands.options import Commands, add_command, named
from yizhi.commands.signer_options import add_signer, open_signer


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    parser = add_command(
        commands,
        "sign",
        run,
        "sign a finished release",
        "Sign every file of a release in model.sig (OpenSSF model signing). Sign its provenance and its bill of\n"
        "materials in attestations.sigstore.jsonl (in-toto statements). Verify the release first: a signature\n"
        "proves who released it, and not that it is right.\n\n"
        "  openssl ecparam -name prime256v1 -genkey -noout -out release.key\n"
        "  openssl ec -in release.key -pubout -out release.pub\n"
        "  yizhi sign dist/bert-base-chinese --key release.key\n"
        "  yizhi verify dist/bert-base-chinese --public-key release.pub\n"
        "  yizhi sign dist/bert-base-chinese --keyless          # in a CI job that has an identity",
    )
    parser.add_argument("release", type=named, metavar="RELEASE")
    add_signer(parser)


def run(options: argparse.Namespace) -> int:
    """Do it, and return the exit code."""
    from yizhi.release.signing import sign

    signer = open_signer(options)
    print(f"{sign(options.release, signer)}: signed by {signer.name}")
    return 0
