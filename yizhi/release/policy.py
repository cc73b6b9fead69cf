"""A policy, written in TOML: the demands on a release before it may be used."""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yizhi.errors import InputError
from yizhi.release.schema import find_violations
from yizhi.storage.small_files import read_small

SCHEMA = "policy.v1"
MOST_DAYS = 36_500


@dataclass(frozen=True)
class AcceptedSigner:
    """A key's file; or an identity, its provider, and a private Sigstore's configuration."""

    public_key: Path | None = None
    identity: str | None = None
    identity_provider: str | None = None
    trust_config: Path | None = None


@dataclass(frozen=True)
class Policy:
    """Demands; see `schemas/policy.v1.json`. An empty field, or None, demands nothing.

    signers: one of them must have signed. int8: limits by name, such as `min_top1`. revoked: a list's file.
    """

    path: Path
    signers: tuple[AcceptedSigner, ...]
    licenses: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    max_age_days: int | None = None
    int8: Mapping[str, float] | None = None
    revoked: Path | None = None


def read_policy(path: Path) -> Policy:
    """Read a policy's TOML. Its paths are relative to its folder. Raises InputError, listing every fault."""
    try:
        said = tomllib.loads(read_small(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(path, f"is not TOML: {error}") from None
    faults = find_violations(said, SCHEMA) or [*_find_nonsense(said)]
    if faults:
        raise InputError(path, faults)

    def beside(name: str | None) -> Path | None:
        return None if name is None else path.parent / name

    return Policy(
        path,
        tuple(
            AcceptedSigner(
                beside(one.get("public_key")),
                one.get("identity"),
                one.get("identity_provider"),
                beside(one.get("trust_config")),
            )
            for one in said["signers"]
        ),
        tuple(name.lower() for name in said.get("licenses", ())),
        tuple(said.get("targets", ())),
        tuple(said.get("gates", ())),
        said.get("max_age_days"),
        said.get("int8"),
        beside(said.get("revoked")),
    )


def _find_nonsense(said: Mapping[str, Any]) -> Iterator[str]:
    """Faults that the schema cannot express."""
    for name in ("signers", "licenses", "targets", "gates", "int8"):
        if name in said and not said[name]:
            yield f"{name}: expected at least one"
    for index, signer in enumerate(said["signers"]):
        by_key, by_identity = {"public_key"}, {"identity", "identity_provider"}
        if any("\0" in str(value) for value in signer.values()):
            yield f"signers[{index}]: expected names without a null character"
        if signer.keys() != by_key and signer.keys() - {"trust_config"} != by_identity:
            yield f"signers[{index}]: expected public_key, or identity and identity_provider; found {sorted(signer)}"
    if "\0" in said.get("revoked", ""):
        yield "revoked: expected a name without a null character"
    if said.get("max_age_days", 0) > MOST_DAYS:
        yield f"max_age_days: expected at most {MOST_DAYS}; found {said['max_age_days']}"
    for name, limit in said.get("int8", {}).items():
        if not math.isfinite(limit):
            yield f"int8: {name}: expected a number; found {limit}"
