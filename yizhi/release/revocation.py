"""Lists of withdrawn releases: their manifests' digests, each with a reason and a day, in one signed statement."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yizhi.errors import CheckFailed, InputError, show
from yizhi.release.manifest import MANIFEST
from yizhi.release.places import refuse_inside
from yizhi.release.schema import find_violations
from yizhi.release.statements import STATEMENT, format_time, parse_time
from yizhi.storage.folders import write_whole
from yizhi.storage.json_files import to_json
from yizhi.storage.small_files import read_small

if TYPE_CHECKING:
    from yizhi.release.signers import Checker, Signer

WITHDRAWN_TYPE = "urn:yizhi:withdrawn:1"
SCHEMA = "withdrawn.v1"


@dataclass(frozen=True)
class Withdrawal:
    """Why a release was withdrawn, and the day (UTC, such as 2026-11-29)."""

    reason: str
    since: str


@dataclass(frozen=True)
class RevocationList:
    """Withdrawn releases by the sha256 of their manifest.json, the signer, and the time by the signer's clock (UTC)."""

    withdrawn: Mapping[str, Withdrawal]
    signed_at: datetime
    signer: str


def read_list(path: Path, checkers: "Sequence[Checker | Signer]") -> RevocationList:
    """Read a list that one of `checkers` signed. Raises InputError for any other list, and for another form."""
    bundle = read_small(path)
    refusals = []
    for checker in checkers:
        try:
            signed = checker.check(bundle)
        except CheckFailed as error:
            refusals.append(f"{error}; a list of withdrawn releases must be")
            continue
        withdrawn, signed_at = _read_statement(path, signed.payload)
        return RevocationList(withdrawn, signed_at, signed.signer)
    raise InputError(path, refusals or "no signer of a list of withdrawn releases is named: give `public_key`")


def withdraw(path: Path, manifest_sha256: str, reason: str, signer: "Signer") -> RevocationList:
    """Add a release to the list at `path`, or start a list, and sign it again.

    Raises InputError if the list is not this signer's, or already has the release.
    """
    refuse_inside(path)
    held = dict(read_list(path, [signer]).withdrawn) if path.exists() else {}
    if manifest_sha256 in held:
        raise InputError(path, f"already has {manifest_sha256}, since {held[manifest_sha256].since}")
    if not reason.strip() or not reason.isprintable():
        raise InputError("`reason`", f"expected a line of text; found {show(reason)}")
    now = datetime.now(UTC)
    withdrawn = {**held, manifest_sha256: Withdrawal(reason.strip(), now.strftime("%Y-%m-%d"))}
    bundle = signer.sign(_describe(withdrawn, now))
    write_whole(path, f"{bundle}\n")
    return RevocationList(withdrawn, now, signer.name)


def _describe(withdrawn: Mapping[str, Withdrawal], signed_at: datetime) -> bytes:
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": MANIFEST, "digest": {"sha256": sha256}} for sha256 in sorted(withdrawn)],
        "predicateType": WITHDRAWN_TYPE,
        "predicate": {
            "signed_at": format_time(signed_at),
            "withdrawn": {sha256: asdict(withdrawal) for sha256, withdrawal in withdrawn.items()},
        },
    }
    return to_json(statement).encode()


def _read_statement(path: Path, payload: bytes) -> tuple[dict[str, Withdrawal], datetime]:
    try:
        statement: Any = json.loads(payload)
        faults = find_violations(statement, SCHEMA)
        if faults:
            raise InputError(path, faults)
        said = statement["predicate"]
        withdrawn = {sha256: Withdrawal(**entry) for sha256, entry in said["withdrawn"].items()}
        signed_at = parse_time(said["signed_at"])
        if _describe(withdrawn, signed_at) != payload:
            raise InputError(path, "is not in the form that `yizhi revoke` writes")
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is not a list of withdrawn releases: {error}") from None
    return withdrawn, signed_at
