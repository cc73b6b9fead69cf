"""Signatures of whole releases: who released them, and that nothing changed since.

`model.sig` covers every other file, in OpenSSF's model-signing format. The signed attestations are among these files.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from yizhi.errors import CheckFailed, InputError
from yizhi.release.manifest import ATTESTATIONS, SIGNATURE, find_altered_release, read_manifest
from yizhi.release.signers import Checker, Signer
from yizhi.release.statements import Signature, check_statements, describe_statements, format_time
from yizhi.storage.folders import fsync, write_whole
from yizhi.storage.locks import hold
from yizhi.storage.small_files import read_small


def sign(release: Path, signer: Signer) -> Path:
    """Sign every file of a finished release, and its documents' statements. Returns the signature's path.

    A kill or a failure leaves the old signature, the new one, or none: never a part. Raises InputError for an
    unfinished release, and for a signer that cannot sign. Raises CheckFailed if a file differs from the manifest.
    """
    manifest = read_manifest(release)
    release = release.resolve()
    with hold(release, "another process is writing here"):
        altered = find_altered_release(release, manifest)
        faults = [f"{part}/{fault}" for part, wrong in altered.items() for fault in wrong] + _find_strange(release)
        if faults:
            raise CheckFailed("\n  - ".join([f"{release}: cannot be signed as it is:", *faults]))
        statements = describe_statements(release, format_time(datetime.now(UTC)))
        _write(release, signer, "".join(f"{signer.sign(statement)}\n" for statement in statements))
    return release / SIGNATURE


def check_signature(release: Path, checker: Checker) -> Signature:
    """Who signed a release, and when. Raises CheckFailed unless `checker`'s signer signed exactly these files."""
    release = release.resolve()
    signature = release / SIGNATURE
    if not signature.exists():
        raise CheckFailed(f"{release}: is not signed: there is no {SIGNATURE}")
    try:
        read_small(signature)  # the library would read a file of any size, and wait for a pipe
        checker.check_files(release, signature)
        return check_statements(release, checker.check)
    except InputError as error:  # what cannot be read is no signature
        raise CheckFailed(f"{error.subject}: {'; '.join(error.faults)}") from None


def _write(release: Path, signer: Signer, bundles: str) -> None:
    """Put both files in their place. The signature is last."""
    with _staging(release) as staging:
        (release / SIGNATURE).unlink(missing_ok=True)  # it covers the attestations, which are about to change
        try:
            write_whole(staging / ATTESTATIONS, bundles)
            (staging / ATTESTATIONS).rename(release / ATTESTATIONS)
            signer.sign_files(release, release / SIGNATURE, staging / SIGNATURE)
            fsync(staging / SIGNATURE)
            (staging / SIGNATURE).rename(release / SIGNATURE)
        except BaseException:
            (release / ATTESTATIONS).unlink(missing_ok=True)
            raise
        fsync(release)


def _find_strange(release: Path) -> list[str]:
    """Entries that the manifest does not list, and that cannot be signed or overwritten."""
    report = [release / "report", *(release / "report").rglob("*")]
    written = [release / SIGNATURE, release / ATTESTATIONS]
    strange = [path for path in [*report, *written] if path.is_symlink() or _is_special(path)]
    strange += [path for path in written if path.is_dir()]
    return [
        f"{path.relative_to(release)}: expected a regular file of the release; found a link or another file"
        for path in strange
    ]


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def _staging(release: Path) -> Iterator[Path]:
    """A folder next to the release for unfinished files: a release has only files that its manifest knows."""
    folder = release.parent / f".{release.name}.signing.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
