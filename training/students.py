"""Students: a checkpoint made of chosen layers of another one, with all else that the other has."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from yizhi.errors import InputError
from yizhi.model.architectures import build_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import Parameter, parameters_of, without_names
from yizhi.reading.checkpoint import WEIGHTS, Checkpoint
from yizhi.reading.safetensors_file import write_safetensors
from yizhi.reading.tokenizer_sources import TOKENIZER_FILES
from yizhi.storage.json_files import to_json


def write_student(teacher: Checkpoint, layers: Sequence[int], folder: Path) -> None:
    """Write the checkpoint that has these layers of the teacher, by number from 0, as float32.

    RBT3 is made of the first three layers of RoBERTa-wwm-ext so (https://github.com/ymcui/Chinese-BERT-wwm).
    folder: an empty one. Raises InputError where there are no such layers, or one cannot stand in its new place:
    windows, rotary positions or shared weights may depend on a layer's number.
    """
    layers = choose_layers(teacher, layers)
    raw = _config(teacher, layers)
    names = {parameter.name for parameter in teacher.parameters()}
    spec = build_spec(EncoderConfig.from_dict(raw, teacher.folder / "config.json"), names)
    taken: dict[str, Parameter] = {}
    faults = []
    for number, layer in enumerate(layers):
        own, theirs = spec.blocks[number], teacher.spec.blocks[layer]
        if without_names(own) != without_names(theirs):
            faults.append(f"layer {layer} of the teacher cannot be layer {number}: a layer there computes otherwise")
            continue
        pairs = zip(parameters_of(own), parameters_of(theirs), strict=True)
        faults += [
            f"layer {layer} of the teacher cannot be layer {number}: the layer there is shared with another"
            for mine, its in pairs
            if taken.setdefault(mine.name, its) != its
        ][:1]
    if faults:
        raise InputError("`layers`", faults)
    parameters = {parameter.name: taken.get(parameter.name, parameter) for parameter in spec.parameters()}

    def chunks() -> Iterator[bytes | memoryview]:
        for source in parameters.values():
            yield from teacher.chunks(source)

    with open(folder / WEIGHTS, "wb") as file:
        write_safetensors(file, {name: ("F32", source.shape) for name, source in parameters.items()}, chunks())
    (folder / "config.json").write_text(to_json(raw), encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (teacher.folder / name).exists():
            shutil.copyfile(teacher.folder / name, folder / name)
    if teacher.sentence:  # as wide as the teacher, it pools as the teacher does
        teacher.sentence.copy(teacher.folder, folder)


def choose_layers(teacher: Checkpoint, layers: Sequence[int] | int) -> Sequence[int]:
    """The layers' numbers, of numbers or of how many from the bottom. Raises InputError where there are no such."""
    count, asked = len(teacher.spec.blocks), layers if isinstance(layers, int) else len(layers)
    if not 0 < asked < count:
        raise InputError("`layers`", f"expected 1 … {count - 1} of the teacher's {count} layers; found {asked}")
    layers = range(layers) if isinstance(layers, int) else layers
    if list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= count:
        found = ", ".join(map(str, layers))
        raise InputError("`layers`", f"expected rising numbers from 0 to {count - 1}; found {found}")
    return layers


def _config(teacher: Checkpoint, layers: Sequence[int]) -> dict[str, Any]:
    """The teacher's configuration for so many layers."""
    raw = {key: value for key, value in teacher.config.raw.items() if key != "torch_dtype"}
    raw |= {"num_hidden_layers": len(layers), "dtype": "float32"}
    if isinstance(raw.get("layer_types"), list):  # ModernBERT's, as transformers 5 writes it
        raw["layer_types"] = [raw["layer_types"][layer] for layer in layers]
    return raw
