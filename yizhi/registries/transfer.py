"""Push a release, and pull one back. Nothing leaves unchecked, and nothing arrives unchecked or in part."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yizhi.errors import InputError, printable
from yizhi.registries.address import parse_address
from yizhi.registries.contents import (
    File,
    check_files,
    check_listing,
    expected_files,
    is_beside,
    read_release,
)
from yizhi.registries.registry import open_registry
from yizhi.release.artifact import CARD
from yizhi.release.manifest import MANIFEST, read_manifest
from yizhi.release.places import is_release, refuse_inside
from yizhi.storage.folders import fsync, new_folder

LARGEST_MANIFEST = 64 << 20


@dataclass(frozen=True)
class Push:
    """What a push sends, or would send.

    manifest: the sha256 that `manifest.json` gives of itself. missing: paths whose bytes the registry does not have.
    removed: paths that are there now and will not be. replaces: the version that the address points at now, None
    without one. version: the new one, None in a dry run.
    same: whether the address already holds exactly this release.
    """

    to: str
    manifest: str
    files: list[File]
    missing: list[str]
    removed: list[str]
    replaces: str | None
    same: bool
    version: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def push(
    release: Path,
    to: str,
    send: bool = False,
    public: bool = False,
    told: Callable[[str], None] = lambda text: None,
) -> Push:
    """Check a release, look up the address, and send the release if `send`.

    public: a repository that must be created on the hub is open to everybody. told: called with progress.
    Raises InputError for an unfinished release, an invalid address, and a registry's refusals. Raises CheckFailed for
    an altered file. Both are raised before anything is sent.
    """
    address = parse_address(to)
    told(f"hashing {release}")
    manifest, files = read_release(release)
    told(f"asking {address}")
    registry = open_registry(address, public)
    before = registry.find()
    there = before.files if before else {}
    # As with folders here: a wrong address never costs somebody their files. A README.md is what a new repository has.
    if there.keys() - {CARD} and MANIFEST not in there:
        raise InputError(address, f"holds other files and no {MANIFEST}: it is not ours to replace")
    same = _is_same(there, files)
    missing = [] if same else registry.find_missing(files)
    version = before.version if same and before else None
    if send and not same:
        version = registry.push(release, manifest, files, before, told)
    paths = [file.path for file in missing]
    replaces = before.version if before else None
    removed = sorted(there.keys() - {file.path for file in files})
    return Push(str(address), manifest["sha256"], files, paths, removed, replaces, same, version)


@dataclass(frozen=True)
class Pull:
    """The result of a pull. version: the digest or commit that the address pointed at."""

    source: str
    version: str
    targets: list[str]
    files: int
    size: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def pull(
    source: str,
    out: Path,
    targets: Sequence[str] | None = None,
    check: Callable[[Path], object] | None = None,
    told: Callable[[str], None] = lambda text: None,
) -> Pull:
    """Write the release of an address to a new folder, or to one that holds a release. It is whole or absent.

    targets: only these artifacts, with golden outputs and documents; None for all. check: called with the whole folder
    before the folder is moved into place; it raises to refuse the folder. told: called with progress.
    Raises InputError for an address without a release, and CheckFailed if anything differs from the manifest.
    """
    refuse_inside(out)
    if (out / MANIFEST).exists() and not is_release(out):
        raise InputError(out, f"exists and is not ours to replace: its {MANIFEST} is no release's")
    address = parse_address(source)
    registry = open_registry(address)
    told(f"asking {address}")
    remote = registry.find()
    if remote is None:
        raise InputError(address, "there is nothing: no such repository, tag or revision (or a private one)")
    listed = remote.files.get(MANIFEST)
    if listed is None or (listed.size or 0) > LARGEST_MANIFEST:
        raise InputError(address, f"holds no release: no {MANIFEST} of a usual size")
    with new_folder(out, replaces=(MANIFEST,)) as folder:
        registry.fetch(remote, MANIFEST, folder)
        manifest = _read_manifest(folder, address)
        chosen = _choose(address, manifest, targets)
        check_listing(remote.files, manifest, address)
        paths = {*expected_files(manifest, chosen)}
        paths |= set() if targets else {path for path in remote.files if is_beside(path)}
        _check_space(folder, sum(remote.files[path].size or 0 for path in paths), out)
        for number, path in enumerate(sorted(paths), start=1):
            told(f"fetching {number}/{len(paths)} {printable(path)}")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            registry.fetch(remote, path, folder)
        told(f"hashing {out}")
        check_files(folder, manifest, address, chosen)
        if check:
            check(folder.resolve())
        for written in folder.rglob("*"):
            fsync(written)
        fsync(folder)
    size = sum(remote.files[path].size or 0 for path in {*paths, MANIFEST})
    return Pull(str(address), remote.version, chosen, len(paths) + 1, size)


def _is_same(there: Mapping[str, File], files: Sequence[File]) -> bool:
    """Whether a registry lists exactly these files. False if it lists no sha256."""
    return dict(there) == {file.path: file for file in files}


def _read_manifest(folder: Path, subject: object) -> dict[str, Any]:
    try:
        return read_manifest(folder)
    except InputError as error:
        raise InputError(subject, [f"{MANIFEST}: {fault}" for fault in error.faults]) from None


def _choose(subject: object, manifest: dict[str, Any], targets: Sequence[str] | None) -> list[str]:
    has = list(manifest["artifacts"])
    wrong = [target for target in targets or () if target not in has]
    if wrong:
        raise InputError(subject, f"`targets`: has no {', '.join(wrong)}; it has {', '.join(has)}")
    return list(dict.fromkeys(targets)) if targets else has


def _check_space(folder: Path, needed: int, out: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(out, f"no space: needs {needed / 1e9:.2f} GB; {free / 1e9:.2f} GB are free")
