"""Which folders may be written: a release's own, and no other's; and nothing else inside a finished one."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from yizhi.errors import InputError, collect_faults
from yizhi.release.artifact import CARD, DESCRIPTION
from yizhi.release.documents import BUILDER
from yizhi.release.manifest import BILL_OF_MATERIALS, GOLDEN, MANIFEST, PROVENANCE, SIGNATURE
from yizhi.storage.folders import check_replaceable
from yizhi.storage.json_files import read_json_object

# By this file golden outputs are known.
_CASES = "cases.json"
# By which words in it a document of ours is known.
_MARKS = {CARD: 'library_name: "yizhi"', PROVENANCE: BUILDER, BILL_OF_MATERIALS: '"machine-learning-model"'}


def is_release(folder: Path) -> bool:
    """Whether a folder has a manifest of ours, of whatever version, and whether or not it was altered."""
    try:
        return {"artifacts", "golden", "sha256"} <= read_json_object(folder / MANIFEST).keys()
    except InputError:
        return False


def check_writable(release: Path, targets: Iterable[str]) -> None:
    """Raise InputError, before anything is written, where an export of these targets would replace what is not ours."""
    faults: list[str] = []
    if (release / MANIFEST).exists() and not is_release(release):
        faults.append(f"{MANIFEST}: is no release's, and would be replaced")
    for name, mark in _MARKS.items():
        if (release / name).exists() and not _holds(release / name, mark):
            faults.append(f"{name}: is not Yizhi's, and would be replaced")
    for name, own in {**dict.fromkeys(targets, DESCRIPTION), GOLDEN: _CASES}.items():
        collect_faults(faults, partial(check_replaceable, release / name, (own,)))
    if faults:
        raise InputError(release, [*faults, "choose another folder"])


def refuse_source(folder: Path, checkpoint: Path) -> None:
    """Raise InputError where what is written would lie among the files of the checkpoint that it is made of."""
    if folder.resolve() == checkpoint.resolve():
        raise InputError(folder, "is the checkpoint itself, which could not be read again; choose another folder")


def refuse_inside(path: Path, only_signed: bool = False) -> None:
    """Raise InputError where a file or folder would lie inside a release, which would not be as it was judged any more.

    only_signed: unless the release is not signed.
    """
    for folder in path.absolute().resolve().parents:
        if is_release(folder) and ((folder / SIGNATURE).exists() or not only_signed):
            raise InputError(path, f"lies in the release {folder}, which would no longer be as it was judged or signed")


def _holds(path: Path, mark: str) -> bool:
    return path.is_file() and mark in path.read_text(encoding="utf-8", errors="replace")
