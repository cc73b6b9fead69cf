"""ImportReport: the tensors that an import read, their changes, and the tensors that it left out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from yizhi.reading.importers.foreign import SPLIT


@dataclass(frozen=True)
class ImportedTensor:
    """One tensor of the result: its canonical name, its name and dtype in the source, and its changes.

    One of a fused tensor's parts has a change that begins with `SPLIT`.
    """

    name: str
    source_name: str
    source_dtype: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class ImportReport:
    """source: as the user gave it. unread: other files of weights that lay there. sha256: of each file written.

    ignored: the source's tensors that are not in the result, each with the reason.
    """

    source: str
    out: str
    format: str
    model_type: str
    task: str
    tensors: tuple[ImportedTensor, ...]
    ignored: Mapping[str, str]
    unread: Mapping[str, str]
    notes: tuple[str, ...]
    sha256: Mapping[str, str]

    def counts(self) -> dict[str, int]:
        """How many tensors were read, written and ignored, and how many had each change."""
        parts = [tensor.source_name for tensor in self.tensors if any(map(_is_split, tensor.changes))]
        counts = {
            "read": len(self.tensors) - len(parts) + len(set(parts)) + len(self.ignored),
            "written": len(self.tensors),
            "ignored": len(self.ignored),
            "split from fused tensors": len(parts),
        }
        for word in ("renamed", "transposed", "scaled", "first rows dropped", "widened to float32"):
            counts[word] = sum(word in tensor.changes for tensor in self.tensors)
        return counts

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"counts": self.counts(), **asdict(self)}


def _is_split(change: str) -> bool:
    return change.startswith(SPLIT)
