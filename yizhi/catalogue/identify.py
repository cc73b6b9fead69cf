"""Which known checkpoint a checkpoint is, or comes from: by a file's hash, or tensor by tensor."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from yizhi.catalogue.catalogue import KnownCheckpoint, find_by_files, find_by_hub, read_catalogue
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers.crc32c import crc32c
from yizhi.reading.importers.foreign import ForeignTensor, Place
from yizhi.reading.importers.tf_checkpoint import place_google_name


@dataclass(frozen=True)
class Identity:
    """The recognised checkpoint.

    by: the evidence. equal: how many tensors are unchanged; None after a file's hash.
    different, absent: canonical names of tensors that changed, or are missing here.
    adapter: the name of a bottleneck adapter that was added.
    """

    name: str
    by: str
    equal: int | None = None
    different: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    adapter: str | None = None

    @property
    def is_unaltered(self) -> bool:
        """Whether every tensor here is the published one."""
        return not self.different and self.adapter is None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"unaltered": self.is_unaltered, **asdict(self)}


def identify(checkpoint: Checkpoint, digest: dict[str, str]) -> Identity | None:
    """The known checkpoint that this is or comes from. None if it is none of them.

    digest: sha256 of the checkpoint's files. Without google-crc32c, only these are compared.
    """
    by_file = find_by_files(digest)
    if by_file:
        entry, name = by_file
        return Identity(entry.name, f"sha256 of {name}")
    if find_spec("google_crc32c") is None:
        return None
    compared = [_compare(checkpoint, entry) for entry in read_catalogue().values() if entry.tensors]
    related = [identity for identity in compared if identity and identity.equal]
    return max(related, key=lambda identity: identity.equal or 0, default=None)


def find_origin(identity: Identity | None, origin: dict[str, str] | None) -> str | None:
    """The known checkpoint that this is, unaltered, or that it was downloaded as (`origin` of a manifest)."""
    if identity and identity.is_unaltered:
        return identity.name
    claimed = find_by_hub(origin)
    return claimed.name if claimed else None


def describe_identity(identity: Identity) -> str:
    """One or two sentences, with at most eight tensors by name."""
    if identity.equal is None:
        return f"{identity.name}, unaltered ({identity.by})"
    total = identity.equal + len(identity.different)
    absent = f"; not here: {', '.join(identity.absent)}" if identity.absent else ""
    if identity.is_unaltered:
        return f"{identity.name}, unaltered ({identity.by}: all {total} are equal{absent})"
    adapter = f" with the adapter {identity.adapter}" if identity.adapter else ""
    if not identity.different:
        return f"{identity.name}{adapter} ({identity.by}: all {total} others are equal{absent})"
    named = ", ".join(identity.different[:8]) + (", …" if len(identity.different) > 8 else "")
    return (
        f"a child of {identity.name}{adapter} ({identity.by}): {identity.equal} of {total} tensors are equal; "
        f"{len(identity.different)} differ: {named}{absent}"
    )


def read_tensor_list(path: Path) -> dict[str, tuple[int, bool]]:
    """Canonical name -> (CRC32C of the float32 bytes as Google stores them, whether they are transposed)."""
    tensors = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            crc, name = line.split(" ", 1)
            place = place_google_name(ForeignTensor(name, "F32", (), lambda: np.empty(0)))
            if isinstance(place, Place):
                tensors[place.name] = (int(crc, 16), place.transpose)
    return tensors


def _compare(checkpoint: Checkpoint, entry: KnownCheckpoint) -> Identity | None:
    """Compare with a list. None if the shapes differ."""
    shapes = {parameter.name: parameter.shape for parameter in entry.spec.parameters()} if entry.spec else {}
    ours = {parameter.name: parameter.shape for parameter in checkpoint.parameters()}
    if entry.tensors is None or not any(shapes.get(name) == shape for name, shape in ours.items() if len(shape) > 1):
        return None
    listed = read_tensor_list(entry.tensors)

    def is_equal(name: str) -> bool:
        crc, transposed = listed[name]
        return shapes.get(name) == ours[name] and _crc32c(checkpoint, name, transposed) == crc

    here = [name for name in listed if name in ours]
    with ThreadPoolExecutor() as pool:
        equal = dict(zip(here, pool.map(is_equal, here), strict=True))
    return Identity(
        entry.name,
        f"CRC32C of each tensor in {entry.tensors_source}",
        sum(equal.values()),
        tuple(name for name in here if not equal[name]),
        tuple(sorted(listed.keys() - ours.keys())),
        checkpoint.config.adapter.name if checkpoint.config.adapter else None,
    )


def _crc32c(checkpoint: Checkpoint, name: str, transposed: bool) -> int:
    array = checkpoint.array(name)
    data = np.ascontiguousarray(array.T if transposed else array).reshape(-1).view(np.uint8)
    crc = crc32c(data.data)
    checkpoint.release(name)
    return crc
