"""safetensors under older or shorter names, in shards, in half precision, or as TensorFlow and Flax write them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from yizhi.errors import InputError
from yizhi.reading.importers import flax_msgpack, keras_h5
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Rule
from yizhi.reading.importers.opened import Opened, refuse_brightmart, refuse_fairseq
from yizhi.reading.safetensors_file import SafetensorsFile
from yizhi.reading.weight_files import WEIGHTS, open_weights, written_by

# How a name in a file of this format is written in the format whose rule is known.
_SPELLINGS: dict[str, tuple[Callable[[str], str], Rule]] = {
    "tf": (lambda name: f"layer/model/{name}", keras_h5.place_name),
    "flax": (lambda name: name.replace(".", "/"), flax_msgpack.place_name),
}


def open_safetensors(path: Path) -> Opened:
    """Open one file, or the folder whose `model.safetensors` or index `path` is. Raises InputError."""
    faults: list[str] = []
    is_folder = path.name == WEIGHTS or path.suffix == ".json"
    files = open_weights(path.parent if is_folder else path, faults)
    opened = Opened("safetensors", list(files))
    try:
        if faults:
            raise InputError(path, faults)
        names = [name for file in opened.weights for name in file.entries]
        refuse_brightmart(path, names)
        refuse_fairseq(path, names)
        kind = written_by(files)
        if kind in _SPELLINGS:
            return Opened(f"safetensors ({kind})", [_place(file, *_SPELLINGS[kind]) for file in files])
    except InputError:
        opened.close()
        raise
    return opened


def _place(file: SafetensorsFile, spell: Callable[[str], str], rule: Rule) -> ForeignWeights:
    tensors = [
        ForeignTensor(name, entry.dtype, entry.shape, partial(file.array, name)) for name, entry in file.entries.items()
    ]
    return ForeignWeights(file.path, tensors, lambda tensor: rule(replace(tensor, name=spell(tensor.name))), file.close)
