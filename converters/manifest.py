"""manifest.json: what a release holds, what it was made from, and how close it came.

Nothing in it depends on when or where it was made, so equal releases have equal manifests.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from converters.artifact import DESCRIPTION, Artifact, to_json
from converters.checkpoint import sha256_of_file
from converters.config import read_json_object
from converters.errors import InputError

MANIFEST = "manifest.json"
GOLDEN = "golden"
SCHEMA_VERSION = 1
# Made anew by every verification, and not part of what is released.
NOT_LISTED = ("report",)


def describe_release(
    release: Path, source: dict[str, Any], artifacts: Iterable[Artifact], parity: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The manifest of a release folder: `parity` maps each target to its verdict."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "golden": describe_folder(release / GOLDEN),
        "artifacts": {
            artifact.target: {
                "artifact.json": sha256_of_file(artifact.folder / DESCRIPTION),
                **{key: value for key, value in artifact.description.items() if key != "source"},
                "parity": parity[artifact.target],
            }
            for artifact in artifacts
        },
    }


def write_manifest(release: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` in one step."""
    temporary = release / f".{MANIFEST}.partial"
    temporary.write_text(to_json(manifest), encoding="utf-8")
    temporary.rename(release / MANIFEST)


def read_manifest(release: Path) -> dict[str, Any]:
    """Read `manifest.json`. Raises InputError where it is missing or not of this schema."""
    if not (release / MANIFEST).exists():
        raise InputError(release, f"has no {MANIFEST}: it is not a finished release")
    manifest = read_json_object(release / MANIFEST)
    faults = []
    if manifest.get("schema_version") != SCHEMA_VERSION:
        faults.append(f"schema_version: expected {SCHEMA_VERSION}; found {manifest.get('schema_version')!r}")
    for key in ("source", "golden", "artifacts"):
        if not isinstance(manifest.get(key), dict):
            faults.append(f"{key}: expected an object; found {type(manifest.get(key)).__name__}")
    if faults:
        raise InputError(release / MANIFEST, faults)
    return manifest


def find_altered_release(release: Path, manifest: dict[str, Any]) -> dict[str, list[str]]:
    """Part of the release (a target's folder, `golden`, or `.`) -> what is wrong with its files."""
    faults: dict[str, list[str]] = {}
    for name, expected in manifest["artifacts"].items():
        try:
            artifact = Artifact.read(release / name)
        except InputError as error:
            faults[name] = error.faults
            continue
        wrong = artifact.find_altered_files()
        if sha256_of_file(release / name / DESCRIPTION) != expected["artifact.json"]:
            wrong.append(f"{DESCRIPTION}: differs from the one in {MANIFEST}")
        if wrong:
            faults[name] = wrong
    golden = describe_folder(release / GOLDEN)
    wrong = [
        f"{name}: missing, extra, or altered"
        for name in sorted(golden.keys() | manifest["golden"].keys())
        if golden.get(name) != manifest["golden"].get(name)
    ]
    if wrong:
        faults[GOLDEN] = wrong
    known = {*manifest["artifacts"], GOLDEN, MANIFEST, *NOT_LISTED}
    extra = [f"{path.name}: not part of the release" for path in sorted(release.iterdir()) if path.name not in known]
    if extra:
        faults["."] = extra
    return faults


def code_digest(*packages: str) -> str:
    """sha256 over the source files of these packages, so that changed code makes artifacts out of date."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(json.dumps([path.relative_to(root).as_posix(), sha256_of_file(path)]).encode())
    return digest.hexdigest()


def describe_folder(folder: Path) -> dict[str, Any]:
    """sha256 and size of every file in a folder; empty where there is none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of_file(path), "size": path.stat().st_size}
        for path in files
    }
