"""Options that say who signs, and whose signature must be there."""

import argparse
from typing import TYPE_CHECKING

from yizhi.commands.options import named
from yizhi.errors import InputError

if TYPE_CHECKING:
    from yizhi.release.signers import Checker, Signer

_TRUST_CONFIG_HELP = "a private Sigstore's ClientTrustConfig, JSON (default: the public Sigstore, over the network)"


def add_signer(parser: argparse.ArgumentParser) -> None:
    """Declare `--key`, `--keyless` and what goes with it."""
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--key", type=named, metavar="FILE", help="sign with this elliptic-curve private key, PEM")
    who.add_argument("--keyless", action="store_true", help="sign with an identity that Sigstore certifies")
    parser.add_argument(
        "--identity-token",
        type=named,
        metavar="FILE",
        help="with --keyless: an OpenID Connect token (default: the CI job's own)",
    )
    parser.add_argument("--trust-config", type=named, metavar="FILE", help=f"with --keyless: {_TRUST_CONFIG_HELP}")


def open_signer(options: argparse.Namespace) -> "Signer":
    """The signer. Raises InputError for a key or a token that cannot be used."""
    if options.keyless:
        from yizhi.release.identity_signer import IdentitySigner

        return IdentitySigner(options.identity_token, options.trust_config)
    stray = [name for name in ("identity_token", "trust_config") if getattr(options, name) is not None]
    if stray:
        raise InputError("options", [f"`{name}`: needs --keyless" for name in stray])
    from yizhi.release.key_signer import KeySigner

    return KeySigner(options.key)


def add_checker(parser: argparse.ArgumentParser) -> None:
    """Declare `--public-key`, `--identity` and what goes with it."""
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--public-key", type=named, metavar="FILE", help="also check the release's signature, with this PEM key"
    )
    who.add_argument(
        "--identity", metavar="NAME", help="also check that this identity, such as you@example.org, signed the release"
    )
    parser.add_argument(
        "--identity-provider", metavar="URL", help="with --identity: the provider that vouches for the identity"
    )
    parser.add_argument("--trust-config", type=named, metavar="FILE", help=f"with --identity: {_TRUST_CONFIG_HELP}")


def open_checker(options: argparse.Namespace) -> "Checker | None":
    """The checker of the signature that must be there; None if none must. Raises InputError for a bad key."""
    if options.identity is not None:  # an empty one, as of a variable that is not set, is a fault and no leave
        if options.identity_provider is None:
            raise InputError("options", "`identity`: needs --identity-provider, such as https://accounts.google.com")
        from yizhi.release.identity_signer import IdentityChecker

        return IdentityChecker(options.identity, options.identity_provider, options.trust_config)
    stray = [name for name in ("identity_provider", "trust_config") if getattr(options, name) is not None]
    if stray:
        raise InputError("options", [f"`{name}`: needs --identity" for name in stray])
    if options.public_key is not None:
        from yizhi.release.key_signer import KeyChecker

        return KeyChecker(options.public_key)
    return None
