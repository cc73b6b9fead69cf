"""Which folders may be written: a release's own. Nothing else may be written into a finished release."""

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
    """Whether a folder has a manifest of ours, of any version, altered or not."""
    try:
        return {"artifacts", "golden", "sha256"} <= read_json_object(folder / MANIFEST).keys()
    except InputError:
        return False


def check_writable(release: Path, targets: Iterable[str]) -> None:
    """Raise InputError, before anything is written, if an export of these targets would replace foreign files."""
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
    """Raise InputError if the output would lie among the files of its own checkpoint."""
    if folder.resolve() == checkpoint.resolve():
        raise InputError(folder, "is the checkpoint itself, which would be overwritten; choose another folder")


def refuse_inside(path: Path, only_signed: bool = False) -> None:
    """Raise InputError if a file or folder would lie inside a release, because the release would change.

    only_signed: only if the release is signed.
    """
    for folder in path.absolute().resolve().parents:
        if is_release(folder) and ((folder / SIGNATURE).exists() or not only_signed):
            raise InputError(
                path, f"lies in the release {folder}, which would change after its verification or signature"
            )


def _holds(path: Path, mark: str) -> bool:
    return path.is_file() and mark in path.read_text(encoding="utf-8", errors="replace")
