"""What an artifact must show before it is served: its files as they were written, and the oracle's answers."""

from dataclasses import dataclass, replace
from pathlib import Path

from yizhi.errors import CheckFailed, InputError
from yizhi.parity.answers import check_answers
from yizhi.parity.golden import Golden
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.release.manifest import GOLDEN, MANIFEST, read_manifest
from yizhi.runtimes.base import Runtime
from yizhi.storage.digests import find_alterations, sha256_of_file


@dataclass(frozen=True)
class Checked:
    """What is known of an artifact.

    release_sha256: of the manifest of the release that it lies in. signed: whether that was signed by the key given.
    golden_answers: how many texts it answered as the oracle did; None where it lies in no release.
    """

    release_sha256: str | None = None
    signed: bool = False
    golden_answers: int | None = None


NOT_CHECKED = Checked()


def check_files(artifact: Artifact, public_key: Path | None = None) -> Checked:
    """Hash an artifact's files and, where it lies in a release, hold it to the manifest; with a key, to the signature.

    Raises CheckFailed where anything was altered, and InputError for an artifact alone where a signature is wanted.
    """
    release = artifact.folder.resolve().parent
    in_release = (release / MANIFEST).exists()
    if public_key and not in_release:
        raise InputError(artifact.folder, "lies in no release: there is no signature that `public_key` is for")
    faults = artifact.find_altered_files()
    if in_release:
        faults += _find_misfits(release, artifact)
    if faults:
        raise CheckFailed("\n".join([f"{artifact.folder}:", *(f"  - {fault}" for fault in faults)]))
    if public_key:
        from yizhi.release.key_signer import KeyChecker
        from yizhi.release.signing import check_signature

        check_signature(release, KeyChecker(public_key))
    return Checked(sha256_of_file(release / MANIFEST) if in_release else None, signed=public_key is not None)


def _find_misfits(release: Path, artifact: Artifact) -> list[str]:
    """Where an artifact is not the one that its release was judged with."""
    manifest = read_manifest(release)
    known = manifest["artifacts"].get(artifact.target)
    if known is None:
        return [f"{MANIFEST}: names no {artifact.target}"]
    faults = [f"{GOLDEN}/{fault}" for fault in find_alterations(release / GOLDEN, manifest["golden"])]
    if known[DESCRIPTION] != sha256_of_file(artifact.folder / DESCRIPTION):
        faults.append(f"{DESCRIPTION}: differs from the one in {MANIFEST}")
    return faults


def ask_golden(runtime: Runtime, checked: Checked) -> Checked:
    """Answer the golden texts of the release and hold them to the oracle's answers, within `verify`'s tolerance.

    Raises CheckFailed where one differs. Nothing is asked of an artifact in no release.
    """
    if checked.release_sha256 is None:
        return checked
    folder = runtime.artifact.folder
    expected = Golden.read(folder.resolve().parent / GOLDEN).text.answers
    faults = check_answers(runtime, expected, runtime.artifact.description["precision"])
    if faults:
        raise CheckFailed("\n".join([f"{folder}:", *(f"  - {fault}" for fault in faults)]))
    return replace(checked, golden_answers=len(expected))
