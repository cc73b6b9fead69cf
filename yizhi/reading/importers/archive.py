"""Unpacking an untrusted zip."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from yizhi.errors import InputError
from yizhi.reading.importers.sources import Source, choose, flatten

# Weights hardly compress, and even text seldom tenfold; deflate alone reaches 1,032.
MAX_EXPANSION = 100


def unpack(path: Path, folder: Path, weights: str | None = None, given: tuple[str, ...] = ()) -> Source:
    """Unpack what an import needs from a zip into a new folder, without the one folder it may all be in.

    Raises InputError, listing every fault, for members with `..` or absolute names, links, names given twice,
    encryption, more than MAX_EXPANSION times the archive's size in all, or a damaged file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            faults = _find_faults(archive.infolist(), path.stat().st_size)
            if faults:
                raise InputError(path, faults)
            names = flatten(members)
            source = choose(path, names, weights, given)
            for name, member in names.items():
                if source.needs(name):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(members[member]) as packed, open(folder / name, "xb") as file:
                        shutil.copyfileobj(packed, file, 1 << 22)
            return source
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(path, f"is not a zip that can be read, or is damaged: {error}") from None


def _find_faults(infos: list[zipfile.ZipInfo], size: int) -> list[str]:
    """Everything that makes an archive unsafe to unpack. zipfile itself keeps each member to its stated size."""
    faults, seen = [], set()
    for info in infos:
        name = PurePosixPath(info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in info.filename:
            faults.append(f"{info.filename}: leads out of the folder it is unpacked to")
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            faults.append(f"{info.filename}: is {'a link' if kind == stat.S_IFLNK else 'not a plain file'}")
        elif info.flag_bits & 1:
            faults.append(f"{info.filename}: is encrypted")
        elif name in seen:
            faults.append(f"{info.filename}: appears twice")
        seen.add(name)
    total = sum(info.file_size for info in infos)
    if total > MAX_EXPANSION * size:
        faults.append(f"unpacks to {total} bytes, more than {MAX_EXPANSION} times its own {size}")
    return faults
