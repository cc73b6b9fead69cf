"""A signer's in-toto statements about a release: how it was built, its contents, and the time of the signature.

Each is a line of `attestations.sigstore.jsonl`, signed by itself, so that supply-chain tools can read it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yizhi.errors import CheckFailed, InputError
from yizhi.release.manifest import ATTESTATIONS, BILL_OF_MATERIALS, MANIFEST, PROVENANCE
from yizhi.storage.digests import sha256_of_file
from yizhi.storage.json_files import read_json_object, to_json
from yizhi.storage.small_files import read_small

if TYPE_CHECKING:
    from yizhi.release.signers import Signed

STATEMENT = "https://in-toto.io/Statement/v1"
MATERIALS_TYPE = "https://cyclonedx.org/bom"
RELEASE_TYPE = "urn:yizhi:release:1"


@dataclass(frozen=True)
class Signature:
    """Who signed a release, and when.

    signed_at: UTC. proven: whether a third party proves that time. Otherwise the signer states it.
    """

    signer: str
    signed_at: datetime
    proven: bool

    def describe(self) -> str:
        """The signature as a sentence."""
        when = "as its certificate proves" if self.proven else "by the signer's own clock"
        return f"signed by {self.signer} at {format_time(self.signed_at)}, {when}"


def describe_statements(release: Path, signed_at: str) -> list[bytes]:
    """The statements about a finished release: its provenance.json unchanged, its bill of materials, its documents.

    signed_at: in the form of `format_time`. Raises InputError if a document is missing, or is no document.
    """
    provenance = read_json_object(release / PROVENANCE)
    if provenance.get("_type") != STATEMENT or not provenance.get("subject"):
        raise InputError(release / PROVENANCE, "is no in-toto statement v1 with a subject")
    materials = {
        "_type": STATEMENT,
        "subject": provenance["subject"],
        "predicateType": MATERIALS_TYPE,
        "predicate": read_json_object(release / BILL_OF_MATERIALS),
    }
    documents = (MANIFEST, PROVENANCE, BILL_OF_MATERIALS)
    whole = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256_of_file(release / name)}} for name in documents],
        "predicateType": RELEASE_TYPE,
        "predicate": {"signed_at": signed_at},
    }
    return [to_json(statement).encode() for statement in (provenance, materials, whole)]


def check_statements(release: Path, check: "Callable[[str], Signed]") -> Signature:
    """Who signed these statements about a release with verified files, and when.

    Raises CheckFailed unless `check` accepts each line, and each line is the expected statement. Raises InputError if
    the file, or a document, cannot be read.
    """
    path = release / ATTESTATIONS
    lines = read_small(path).splitlines()
    try:
        signed = [check(line) for line in lines]
        signed_at = _read_time(signed[-1].payload) if signed else ""
    except CheckFailed as error:
        raise CheckFailed(f"{path}: {error}") from None
    if [one.payload for one in signed] != describe_statements(release, signed_at):
        raise CheckFailed(f"{path}: expected the statements that `sign` writes for this release; found others")
    proven = signed[-1].proven_at
    return Signature(signed[-1].signer, proven or parse_time(signed_at), proven is not None)


def format_time(time: datetime) -> str:
    """UTC to the second, such as 2026-11-29T01:02:03Z."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """The inverse of `format_time`. Raises ValueError for any other form."""
    time = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    if format_time(time) != text:
        raise ValueError(f"expected a time such as 2026-11-29T01:02:03Z; found {text}")
    return time


def _read_time(statement: bytes) -> str:
    """`signed_at` of the last statement. Raises CheckFailed if it is no time."""
    try:
        said: Any = json.loads(statement)["predicate"]["signed_at"]
        parse_time(said)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckFailed("does not say when the release was signed") from None
    return str(said)
