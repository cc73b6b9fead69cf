"""The checks of an artifact before it is served: its files, and its answers to golden texts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from yizhi.errors import CheckFailed, InputError
from yizhi.parity.answers import check_answers
from yizhi.parity.golden import Golden
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.release.manifest import GOLDEN, MANIFEST, read_manifest
from yizhi.runtimes.base import Runtime
from yizhi.storage.digests import find_alterations, sha256_of_file

if TYPE_CHECKING:
    from yizhi.release.signers import Checker


@dataclass(frozen=True)
class Checked:
    """The known facts of an artifact.

    release_sha256: of the manifest of its release. signed_by: the release's signer, if a signature was requested.
    golden_answers: how many texts it answered like the oracle; None outside a release.
    """

    release_sha256: str | None = None
    signed_by: str | None = None
    golden_answers: int | None = None


NOT_CHECKED = Checked()


def check_files(artifact: Artifact, checker: "Checker | None" = None) -> Checked:
    """Hash an artifact's files. In a release, compare them with the manifest, and check the requested signature.

    Raises CheckFailed if anything was altered. Raises InputError if a signature is requested and there is no release.
    """
    release = artifact.folder.resolve().parent
    in_release = (release / MANIFEST).exists()
    if checker and not in_release:
        raise InputError(artifact.folder, "lies in no release: there is no signature to check")
    faults = artifact.find_altered_files()
    if in_release:
        faults += _find_misfits(release, artifact)
    if faults:
        raise CheckFailed("\n".join([f"{artifact.folder}:", *(f"  - {fault}" for fault in faults)]))
    if checker:
        from yizhi.release.signing import check_signature

        check_signature(release, checker)
    return Checked(sha256_of_file(release / MANIFEST) if in_release else None, checker.name if checker else None)


def _find_misfits(release: Path, artifact: Artifact) -> list[str]:
    """Differences between an artifact and the one that its release was verified with."""
    manifest = read_manifest(release)
    known = manifest["artifacts"].get(artifact.target)
    if known is None:
        return [f"{MANIFEST}: names no {artifact.target}"]
    faults = [f"{GOLDEN}/{fault}" for fault in find_alterations(release / GOLDEN, manifest["golden"])]
    if known[DESCRIPTION] != sha256_of_file(artifact.folder / DESCRIPTION):
        faults.append(f"{DESCRIPTION}: differs from the one in {MANIFEST}")
    return faults


def ask_golden(runtime: Runtime, checked: Checked) -> Checked:
    """Answer the release's golden texts, and compare with the oracle's answers, within `verify`'s tolerance.

    Raises CheckFailed if an answer differs. Does nothing for an artifact outside a release.
    """
    if checked.release_sha256 is None:
        return checked
    folder = runtime.artifact.folder
    expected = Golden.read(folder.resolve().parent / GOLDEN).text.answers
    faults = check_answers(runtime, expected, runtime.artifact.description["precision"])
    if faults:
        raise CheckFailed("\n".join([f"{folder}:", *(f"  - {fault}" for fault in faults)]))
    return replace(checked, golden_answers=len(expected))
