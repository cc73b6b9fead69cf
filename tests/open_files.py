"""Which files this process holds open, where the system tells."""

from pathlib import Path

import pytest

from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint

DESCRIPTORS = Path("/proc/self/fd")


def open_files(suffix: str = ".safetensors") -> list[str]:
    """Paths of the open files that end so, sorted; empty on systems without /proc."""
    if not DESCRIPTORS.exists():
        return []
    paths = [str(link.readlink()) for link in DESCRIPTORS.iterdir() if link.is_symlink()]
    return sorted(path for path in paths if path.endswith(suffix))


def faults_of(path: Path) -> list[str]:
    """The faults of opening the checkpoint `path`, which must not leave a file open behind them."""
    before = open_files()
    with pytest.raises(InputError) as caught, Checkpoint.open(path) as checkpoint:
        checkpoint.check_values()
    assert open_files() == before
    return caught.value.faults
