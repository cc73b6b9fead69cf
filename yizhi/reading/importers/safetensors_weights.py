"""safetensors under older or shorter names, in shards, or in half precision."""

from pathlib import Path

from yizhi.errors import InputError
from yizhi.reading.importers.opened import Opened, refuse_brightmart
from yizhi.reading.weight_files import WEIGHTS, open_weights


def open_safetensors(path: Path) -> Opened:
    """Open one file, or the folder whose `model.safetensors` or index `path` is. Raises InputError."""
    faults: list[str] = []
    is_folder = path.name == WEIGHTS or path.suffix == ".json"
    opened = Opened("safetensors", list(open_weights(path.parent if is_folder else path, faults)))
    try:
        if faults:
            raise InputError(path, faults)
        refuse_brightmart(path, (name for file in opened.weights for name in file.entries))
    except InputError:
        opened.close()
        raise
    return opened
