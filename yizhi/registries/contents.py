"""The files of a release, and whether a registry lists exactly these."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yizhi.errors import CheckFailed, InputError, printable, show
from yizhi.release.artifact import CARD, DESCRIPTION
from yizhi.release.manifest import GOLDEN, MANIFEST, NOT_LISTED, find_altered_release, read_manifest
from yizhi.storage.digests import describe_folder, sha256_of_file

# What no manifest can list, and may travel with it: signatures, and the report, which these cover.
REPORT = "report"
_REPORT = re.compile(rf"{REPORT}/parity\.(json|xml|html)")
_SIGNATURES = {*NOT_LISTED} - {REPORT}
MOST_FAULTS = 20


@dataclass(frozen=True)
class File:
    """A file of a release. sha256, size: None if the registry does not list it."""

    path: str
    sha256: str | None
    size: int | None


def read_release(release: Path) -> tuple[dict[str, Any], list[File]]:
    """The manifest of a finished, unaltered release, and every file of it by path.

    Raises InputError if the release is unfinished, or its report folder holds other files. Raises CheckFailed if a file
    differs from the manifest.
    """
    manifest = read_manifest(release)
    check_files(release, manifest, release)
    report = {f"{REPORT}/{name}": entry["sha256"] for name, entry in describe_folder(release / REPORT).items()}
    strange = [f"{path}: is not a file of a report: move it elsewhere" for path in report if not is_beside(path)]
    strange += [f"{path}: is a symbolic link" for path in report if (release / path).is_symlink()]
    if strange:
        raise InputError(release, strange)
    files = expected_files(manifest, manifest["artifacts"])
    there = {
        name: sha256_of_file(release / name) for name in (MANIFEST, *sorted(_SIGNATURES)) if (release / name).is_file()
    }
    files |= {path: File(path, digest, None) for path, digest in {**there, **report}.items()}
    return manifest, [File(path, file.sha256, (release / path).stat().st_size) for path, file in sorted(files.items())]


def check_files(
    folder: Path, manifest: Mapping[str, Any], subject: object, targets: Iterable[str] | None = None
) -> None:
    """Raise CheckFailed, listing every fault, if the folder's files differ from its manifest.

    subject: the folder's name in the error. targets: check only these artifacts; None for all in the manifest.
    """
    altered = find_altered_release(folder, manifest, targets)
    if altered:
        fail(subject, [f"{part}/{fault}" for part, faults in altered.items() for fault in faults])


def expected_files(manifest: Mapping[str, Any], targets: Iterable[str]) -> dict[str, File]:
    """Path -> file, of everything that the manifest covers; of the artifacts, only these targets."""
    files = {}
    for target in targets:
        entry = manifest["artifacts"][target]
        files[f"{target}/{DESCRIPTION}"] = File(f"{target}/{DESCRIPTION}", entry[DESCRIPTION], None)
        listed = {f"{target}/{name}": file for name, file in entry["files"].items()}
        files |= {path: File(path, file["sha256"], file["size"]) for path, file in listed.items()}
    beside = {f"{GOLDEN}/{name}": file for name, file in manifest["golden"].items()}
    others = {f"{target}/{CARD}" for target in manifest["artifacts"]} - {f"{target}/{CARD}" for target in targets}
    beside |= {name: file for name, file in manifest["documents"].items() if name not in others}
    return files | {path: File(path, file["sha256"], file["size"]) for path, file in beside.items()}


def is_beside(path: str) -> bool:
    """Whether a file that the manifest does not list may lie in a release."""
    return path in _SIGNATURES or _REPORT.fullmatch(path) is not None


def is_relative(path: str) -> bool:
    """Whether a path stays inside its folder, on every system, and can be printed."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and ":" not in path and not {"", ".", ".."} & set(parts)


def check_listing(found: Mapping[str, File], manifest: Mapping[str, Any], subject: object) -> None:
    """Raise CheckFailed, before anything large is fetched, unless a registry lists exactly this release."""
    expected = expected_files(manifest, manifest["artifacts"])
    faults = [f"{show(path)}: leads outside the folder" for path in sorted(found) if not is_relative(path)]
    faults += [f"{path}: missing" for path in sorted(expected.keys() - found.keys())]
    extra = sorted(path for path in found.keys() - expected.keys() - {MANIFEST} if not is_beside(path))
    faults += [f"{show(path)}: is not a file of this release" for path in extra]
    for path in sorted(expected.keys() & found.keys()):
        for what in ("size", "sha256"):
            told, wanted = getattr(found[path], what), getattr(expected[path], what)
            if None not in (told, wanted) and told != wanted:
                faults.append(f"{path}: expected {what} {wanted}; the registry lists {told}")
    if faults:
        fail(subject, faults)


def fail(subject: object, faults: list[str]) -> None:
    """Raise CheckFailed with these faults, at most MOST_FAULTS of them."""
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    lines = [f"  - {printable(fault)}" for fault in [*faults[:MOST_FAULTS], *more]]
    raise CheckFailed("\n".join([f"{subject}: is not as its {MANIFEST} says:", *lines]))
