"""manifest.json: a release's files, their source, and their measured errors.

Nothing in it depends on time or place. So equal releases have equal manifests.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yizhi.errors import Altered, InputError
from yizhi.release.artifact import CARD, DESCRIPTION, UNFINISHED, Artifact, say_what_else
from yizhi.release.schema import find_violations
from yizhi.storage.digests import describe_file, describe_folder, find_alterations, sha256_of_file
from yizhi.storage.folders import write_whole
from yizhi.storage.json_files import read_json_object, to_json

MANIFEST = "manifest.json"
GOLDEN = "golden"
SCHEMA_VERSION = 1
SCHEMA = "manifest.v1"
# Written when all is verified; the manifest lists them, and each artifact's card, under `documents`.
PROVENANCE = "provenance.json"
BILL_OF_MATERIALS = "bom.cdx.json"
DOCUMENTS = (CARD, BILL_OF_MATERIALS, PROVENANCE)
SIGNATURE = "model.sig"
ATTESTATIONS = "attestations.sigstore.jsonl"
# What the manifest cannot hold the digest of: signatures are over the manifest, and the report tells
# of one machine and one day.
NOT_LISTED = ("report", SIGNATURE, ATTESTATIONS)


def describe_release(
    release: Path, source: dict[str, Any], artifacts: Iterable[Artifact], parity: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The manifest of a release folder: `parity` maps each target to its verdict."""
    artifacts = list(artifacts)
    return _sealed(
        {
            "schema_version": SCHEMA_VERSION,
            "source": source,
            "golden": describe_folder(release / GOLDEN),
            "documents": describe_documents(release, [artifact.target for artifact in artifacts]),
            "artifacts": {
                artifact.target: {
                    DESCRIPTION: sha256_of_file(artifact.folder / DESCRIPTION),
                    **{key: value for key, value in artifact.description.items() if key != "source"},
                    "parity": parity[artifact.target],
                }
                for artifact in artifacts
            },
        }
    )


def list_documents(targets: Iterable[str]) -> list[str]:
    """Paths in a release of the documents that are written after the verification of these artifacts."""
    return [*DOCUMENTS, *(f"{target}/{CARD}" for target in targets)]


def describe_documents(release: Path, targets: Iterable[str]) -> dict[str, Any]:
    """sha256 and size of the documents that exist."""
    return {name: found for name in list_documents(targets) if (found := describe_file(release / name))}


def write_manifest(release: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` in one step. Raises ValueError for a manifest that `read_manifest` would refuse."""
    if violations := find_violations(manifest, SCHEMA):
        raise ValueError(f"{MANIFEST}: {'; '.join(violations)}")
    write_whole(release / MANIFEST, to_json(_sealed(manifest)))


def is_meant_as_release(folder: Path) -> bool:
    """Whether a folder is a release, finished or not. `read_manifest` explains an unfinished one."""
    artifacts = any(folder.glob(f"*/{DESCRIPTION}")) and not (folder / "config.json").exists()
    return (folder / MANIFEST).exists() or artifacts


def read_manifest(release: Path) -> dict[str, Any]:
    """Read `manifest.json`. Raises InputError if it is missing, not of this schema, or altered."""
    if not (release / MANIFEST).exists():
        raise InputError(release, say_what_else(release) or UNFINISHED)
    manifest = read_json_object(release / MANIFEST)
    faults = find_violations(manifest, SCHEMA)
    if not faults and (release / MANIFEST).read_text(encoding="utf-8") != to_json(_sealed(manifest)):
        raise Altered(release / MANIFEST, "was altered: its own sha256 differs from its content")
    if faults:
        raise InputError(release / MANIFEST, faults)
    return manifest


def find_altered_release(
    release: Path, manifest: Mapping[str, Any], targets: Iterable[str] | None = None
) -> dict[str, list[str]]:
    """Part of the release (a target's folder, `golden`, or `.`) -> faults of its files.

    targets: check only these artifacts; None for all.
    """
    faults: dict[str, list[str]] = {}
    documents = manifest["documents"]
    for name in manifest["artifacts"] if targets is None else targets:
        expected = manifest["artifacts"][name]
        try:
            artifact = Artifact.read(release / name)
        except InputError as error:
            faults[name] = [f"{DESCRIPTION}: {fault}" for fault in error.faults]
            continue
        wrong = artifact.find_altered_files()
        if artifact.target != name:
            wrong.append(f"{DESCRIPTION}: target: expected {name}; found {artifact.target}")
        if sha256_of_file(release / name / DESCRIPTION) != expected[DESCRIPTION]:
            wrong.append(f"{DESCRIPTION}: differs from the one in {MANIFEST}")
        card = f"{name}/{CARD}"
        if describe_file(release / card) != documents.get(card):
            wrong.append(f"{CARD}: differs from the one in {MANIFEST}")
        faults[name] = wrong
    faults[GOLDEN] = find_alterations(release / GOLDEN, manifest["golden"])
    known = {*manifest["artifacts"], GOLDEN, MANIFEST, *NOT_LISTED}
    folders = [name for name in known if (release / name).is_symlink()]
    faults["."] = [f"{name}: is a symbolic link" for name in sorted(folders)]
    written = list_documents(manifest["artifacts"])
    faults["."] += [f"{name}: is not one of a release's documents" for name in documents if name not in written]
    beside = {name: entry for name, entry in documents.items() if "/" not in name}
    faults["."] += find_alterations(release, beside, known)
    return {part: wrong for part, wrong in faults.items() if wrong}


def _sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the sha256 of its other keys, so that accidental changes of this file are noticed."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**content, "sha256": hashlib.sha256(to_json(content).encode()).hexdigest()}
