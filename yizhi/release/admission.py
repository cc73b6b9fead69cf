"""Checks a release before anything of it runs: its signature, the lists of withdrawn releases, and a policy."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from yizhi.errors import CheckFailed, InputError
from yizhi.release.identity_signer import IdentityChecker
from yizhi.release.key_signer import KeyChecker
from yizhi.release.manifest import MANIFEST, read_manifest
from yizhi.release.policy import AcceptedSigner, Policy
from yizhi.release.policy_verdict import PolicyVerdict, describe_withdrawal, judge
from yizhi.release.revocation import read_list
from yizhi.release.signers import Checker
from yizhi.release.signing import check_signature
from yizhi.release.statements import Signature
from yizhi.storage.digests import sha256_of_file


def admit(release: Path, policy: Policy, revoked: Path | None = None) -> PolicyVerdict:
    """Compare a release's manifest and signature with a policy.

    revoked: a further list of withdrawn releases. Raises InputError for a folder that is no release, and for a key, a
    configuration or a list that cannot be used.
    """
    manifest = read_manifest(release)
    checkers = _open_all(policy)
    lists = [read_list(path, checkers).withdrawn for path in (policy.revoked, revoked) if path]
    withdrawn = {sha256: entry for entries in lists for sha256, entry in entries.items()}
    signature = _find_signature(release, checkers)
    return judge(policy, manifest, sha256_of_file(release / MANIFEST), signature, withdrawn, datetime.now(UTC))


def check_not_withdrawn(release: Path, revoked: Path, checkers: Sequence[Checker]) -> None:
    """Raise CheckFailed if a list that one of `checkers` signed has this release.

    Raises InputError for any other list.
    """
    found = read_list(revoked, checkers)
    read_manifest(release)
    sha256 = sha256_of_file(release / MANIFEST)
    if sha256 in found.withdrawn:
        raise CheckFailed(f"{release}: {describe_withdrawal(sha256, found.withdrawn[sha256])}")


def _find_signature(release: Path, checkers: Sequence[Checker]) -> Signature | str:
    """The signature that one of `checkers` accepts, or the reasons of each that does not."""
    refusals: list[str] = []
    for checker in checkers:
        try:
            return check_signature(release, checker)
        except CheckFailed as error:
            refusals.append(str(error))
    return "; ".join(dict.fromkeys(refusals))


def _open_all(policy: Policy) -> list[Checker]:
    """Keys come first: an identity may need the network, and one signer is enough.

    Raises InputError if there is no key and an identity cannot be checked.
    """
    keys = [KeyChecker(signer.public_key) for signer in policy.signers if signer.public_key is not None]
    identities: list[Checker] = []
    for number, signer in enumerate(policy.signers):
        if signer.public_key is None:
            try:
                identities.append(_open(signer))
            except InputError as error:
                if not keys:
                    raise InputError(
                        policy.path, [f"signers[{number}]: {error.subject}: {fault}" for fault in error.faults]
                    ) from None
    return [*keys, *identities]


def _open(signer: AcceptedSigner) -> Checker:
    return IdentityChecker(signer.identity or "", signer.identity_provider or "", signer.trust_config)
