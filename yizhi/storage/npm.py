"""Packages of npm's registry: the tarball of a pinned version, cached and checked against its sha512.

npm itself downloads the tarball, with the registry, proxy and credentials of `npm config`.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yizhi.errors import InputError, NotRun
from yizhi.storage.folders import scratch_folder

_SECONDS = 300
# What is wrong and nothing else, and no minutes of trying again.
_SETTINGS = {"npm_config_loglevel": "error", "npm_config_fetch_retries": "0"}


@dataclass(frozen=True)
class NpmPackage:
    """One version of a package. integrity: the tarball's sha512 in base64, as in npm's lock files."""

    name: str
    version: str
    integrity: str

    @property
    def file(self) -> str:
        """The tarball's name, as `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def url(self) -> str:
        """The tarball's address in npm's own registry."""
        bare = self.name.rpartition("/")[2]
        return f"https://registry.npmjs.org/{self.name}/-/{bare}-{self.version}.tgz"


def cache_folder() -> Path:
    """The cache of tarballs: a folder of ours below XDG_CACHE_HOME, or below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "yizhi" / "npm"


def find_tarball(package: NpmPackage, folder: Path | None = None) -> Path:
    """The package's tarball, checked against its sha512.

    folder: the folder that must have the tarball. None: the cache, to which npm downloads a missing tarball.
    Raises InputError for another sha512, and for a tarball missing from `folder`. Raises NotRun if the download fails.
    """
    place = (folder or cache_folder()) / package.file
    if not place.is_file():
        if folder:
            raise InputError(folder, f"has no {package.file}: download {package.url}")
        _download(package, place)
    _check(package, place)
    return place


def read_files(tarball: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The bytes of these files, by their names in the package's folder. Raises InputError if one is missing."""
    found = {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            if name in names and (file := archive.extractfile(member)):
                found[name] = file.read()
            if len(found) == len(names):
                break
    if missing := [name for name in names if name not in found]:
        raise InputError(tarball, [f"{name}: missing" for name in missing])
    return found


def _check(package: NpmPackage, tarball: Path) -> None:
    with open(tarball, "rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != package.integrity:
        expected = f"expected sha512 {package.integrity} of {package.name} {package.version}"
        raise InputError(tarball, f"{expected}; found {found}")


def _download(package: NpmPackage, place: Path) -> None:
    """Put the tarball in its place, whole and checked."""
    by_hand = f"download {package.url} and put it at {place}"
    npm = shutil.which("npm")
    if not npm:
        raise NotRun(f"npm package {package.name}", f"there is no npm here: {by_hand}")
    with scratch_folder(place) as temporary:
        # Not in the user's folder: npm would read the settings of a project there.
        command = [npm, "pack", f"{package.name}@{package.version}"]
        settings = {**os.environ, **_SETTINGS}
        try:
            done = subprocess.run(
                command, cwd=temporary, env=settings, capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise NotRun(f"npm package {package.name}", f"npm took more than {_SECONDS} s: {by_hand}") from None
        tarball = temporary / package.file
        if done.returncode != 0 or not tarball.is_file():
            told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            why = told[0].removeprefix("npm error ")
            raise NotRun(f"npm package {package.name}", f"npm could not download it ({why}): {by_hand}")
        _check(package, tarball)
        tarball.rename(place)
