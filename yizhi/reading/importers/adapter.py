"""A bottleneck adapter saved alone by the `adapters` library, put into its base: `yizhi import BASE --adapter FOLDER`.

The result is what the library's own `save_pretrained` writes: the adapter's tensors among the encoder's,
under the library's names, and its configuration under `adapters` in `config.json`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from yizhi.errors import InputError, collect_faults, show
from yizhi.model.adapter_config import NAME, read_adapter
from yizhi.model.architectures import FAMILIES, class_names
from yizhi.model.config import EncoderConfig
from yizhi.model.family import Family
from yizhi.model.label_heads import ANSWER, LABEL_CLASS_SUFFIXES, MULTI_LABEL, SEQUENCE, TOKENS, task_of
from yizhi.reading.checkpoint import Checkpoint, canonical_name
from yizhi.reading.folder_files import ADAPTER
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Place
from yizhi.reading.importers.joined import read_tensors, without_parts
from yizhi.reading.weight_files import TensorFile
from yizhi.storage.json_files import read_json_object

HEAD_CONFIG = "head_config.json"
WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
HEAD_WEIGHTS = ("model_head.safetensors", "pytorch_model_head.bin")
REPLACED = "the head saved with the adapter takes its place"
_WITHOUT = f"Without {HEAD_CONFIG} the base's head is kept"

_LABEL_KEYS = ("id2label", "label2id", "num_labels", "problem_type")
# head_type of the library's flexible heads -> the task, and what config.json says of its labels besides their names.
_FLEXIBLE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "classification": (SEQUENCE, {}),
    "multilabel_classification": (SEQUENCE, {"problem_type": MULTI_LABEL}),
    "tagging": (TOKENS, {}),
    "question_answering": (ANSWER, {}),
}


@dataclass(frozen=True)
class Head:
    """A head saved beside an adapter, as transformers would have it.

    architecture: the class it makes of the base. config: keys for `config.json`.
    modules: names of modules in the file -> ours, where they differ.
    """

    architecture: str
    config: Mapping[str, Any] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)


def join_adapter(
    base: Checkpoint, files: Sequence[TensorFile], folder: Path
) -> tuple[Checkpoint, ForeignWeights, tuple[str, ...]]:
    """The checkpoint of a base with an adapter in it; the adapter's tensors; and notes for the report.

    files: the base's. Raises InputError listing every fault: an adapter for another base, one that is not
    supported, a head that has no counterpart here, tensors that are missing or not known.
    """
    if not folder.is_dir():
        raise InputError(folder, f"expected a folder with {ADAPTER}, as the adapters library's save_adapter writes it")
    raw = read_json_object(folder / ADAPTER)
    faults = _find_other_base(base, raw)
    said, settings = raw.get("name"), raw.get("config")
    name = _plain_name(said)
    if not isinstance(settings, dict):
        faults.append(f"{ADAPTER}: config: expected an object; found {show(settings)}")
    else:
        read_adapter(name, settings, base.config.model_type, faults, f"{ADAPTER}: config: ")
    head = collect_faults(faults, lambda: _read_head(folder, base)) if (folder / HEAD_CONFIG).exists() else None
    tensors = collect_faults(faults, lambda: read_tensors(folder, WEIGHTS)) or []
    tensors_of_head = (collect_faults(faults, lambda: read_tensors(folder, HEAD_WEIGHTS)) or []) if head else []
    if faults or not isinstance(settings, dict):
        raise InputError(folder, faults)
    config = EncoderConfig.from_dict(_join_config(base, str(name), settings, head), folder)
    _check_places(base, config, folder, str(said), tensors)
    modules = head.modules if head else {}
    weights = ForeignWeights(folder, [*tensors, *tensors_of_head], partial(_place, str(said), str(name), modules))
    kept = without_parts(base, files, set(modules.values()), keep_head=False) if head else files
    notes = tuple(_describe(raw, str(name), head, base))
    try:
        return Checkpoint(base.folder, [*kept, weights], config, base.text), weights, notes
    except InputError as error:
        raise InputError(folder, error.faults) from None


def _find_other_base(base: Checkpoint, raw: Mapping[str, Any]) -> list[str]:
    expected = {"model_type": base.config.model_type, "hidden_size": base.config.hidden_size}
    faults = [
        f"{ADAPTER}: is for another base: {key}: expected {value!r}, as the base has; found {show(raw.get(key))}"
        for key, value in expected.items()
        if raw.get(key) != value
    ]
    if base.config.adapter:
        faults.append(f"{ADAPTER}: the base has an adapter already, {base.config.adapter.name}; a graph computes one")
    return faults


def _plain_name(said: object) -> object:
    """A name that every framework takes; the library allows `sentiment/sst-2@ukp`."""
    if not isinstance(said, str) or not said or NAME.fullmatch(said):
        return said
    return re.sub(r"[^A-Za-z0-9_-]+", "_", said).strip("_-") or "adapter"


def _join_config(base: Checkpoint, name: str, settings: Mapping[str, Any], head: Head | None) -> dict[str, Any]:
    """The base's `config.json` with the adapter in it, and its head."""
    raw = {key: value for key, value in base.published_config().items() if not (head and key in _LABEL_KEYS)}
    entry = {"adapters": {name: name}, "config_map": {name: settings}}
    entry |= {"fusions": {}, "fusion_config_map": {}, "fusion_name_map": {}}
    of_head = {"architectures": [head.architecture], **head.config} if head else {}
    return {**raw, **of_head, "adapters": entry}


def _check_places(
    base: Checkpoint, config: EncoderConfig, folder: Path, said: str, tensors: Iterable[ForeignTensor]
) -> None:
    """One fault for an adapter of another number of layers, instead of one for each of its tensors."""
    family, mark = FAMILIES[config.model_type], f".adapters.{said}."
    spec = family.encoder(config, has_pooler=False)
    adapters = [part for layer in spec.layers for part in (layer.attention_adapter, layer.output_adapter) if part]
    expected = {part.up.name.rpartition(".adapters.")[0] for part in adapters}
    names = [canonical_name(tensor.name, family) for tensor in tensors]
    found = {name.partition(mark)[0] for name in names if mark in name}
    if found != expected:
        differ = [f"{min(found - expected)} is not of this base"] if found - expected else []
        differ += [f"{min(expected - found)} has none"] if expected - found else []
        raise InputError(
            folder,
            f"is for another base, or for other layers: expected adapters named {said} in {len(expected)} places, as "
            f"{ADAPTER} says for a base of {config.num_hidden_layers} layers; found {len(found)}: {', '.join(differ)}",
        )


def _place(said: str, name: str, modules: Mapping[str, str], tensor: ForeignTensor) -> Place:
    """Where a tensor of an adapter or its head goes; those not known are refused by the checkpoint that comes of it."""
    module, _, leaf = tensor.name.rpartition(".")
    if module in modules:
        return Place(f"{modules[module]}.{leaf}")
    return Place(tensor.name.replace(f".adapters.{said}.", f".adapters.{name}."))


def _read_head(folder: Path, base: Checkpoint) -> Head:
    """Raises InputError for a head that has no counterpart here."""
    path, family = folder / HEAD_CONFIG, FAMILIES[base.config.model_type]
    raw = read_json_object(path)
    settings = raw.get("config")
    if isinstance(settings, dict):
        return _read_flexible_head(path, family, str(raw.get("name")), settings)
    classes = [name for task, name in class_names(family).items() if task != "features"]
    said = raw.get("model_class")
    if said not in classes:
        raise InputError(path, f"model_class: expected one of {', '.join(classes)}; found {show(said)}. {_WITHOUT}")
    return Head(said, _read_labels(path, raw) if task_of(said) else {})


def _read_flexible_head(path: Path, family: Family, name: str, settings: Mapping[str, Any]) -> Head:
    """One of the library's own heads: dropout, linear (, activation, dropout, linear), by number."""
    kind = settings.get("head_type")
    if not isinstance(kind, str) or kind not in _FLEXIBLE:
        raise InputError(path, f"head_type: expected one of {', '.join(_FLEXIBLE)}; found {show(kind)}. {_WITHOUT}")
    task, more = _FLEXIBLE[kind]
    names = family.label_heads[task]
    activation = settings.get("activation_function")
    one = {f"heads.{name}.1": names.projection}
    two = {f"heads.{name}.1": names.dense or family.pooler or "", f"heads.{name}.4": names.projection}
    # (layers, over the pooler's output, the activation between two) -> names of the linear layers
    by_input: dict[str, dict[tuple[object, object, object], Mapping[str, str]]] = {
        "tokens": {(1, False, None): one},
        "pooler": {(1, True, None): one, (2, False, "tanh"): two},  # the first of two is a pooler of its own
        "first_token": {(2, False, "gelu"): two},
    }
    fitting = by_input[names.over]
    layers = settings.get("layers")
    form = (layers, bool(settings.get("use_pooler", False)), activation if layers != 1 else None)
    if form not in fitting or settings.get("bias", True) is not True:
        known = " or ".join(_describe_form(*known) for known in fitting)
        raise InputError(
            path,
            f"a {kind} head for {family.class_name}: expected {known}, with bias; found {_describe_form(*form)}"
            f"{'' if settings.get('bias', True) else ', without bias'}. {_WITHOUT}",
        )
    architecture = family.class_name + LABEL_CLASS_SUFFIXES[task]
    return Head(architecture, {**_read_labels(path, settings), **more}, fitting[form])


def _describe_form(layers: object, pooler: object, activation: object) -> str:
    between = f" with {show(activation)} between" if layers != 1 else ""
    return f"layers {show(layers)}{between}, use_pooler {str(pooler).lower()}"


def _read_labels(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `config.json` for the labels that a head names."""
    labels = raw.get("label2id")
    if labels is None:
        return {"num_labels": raw.get("num_labels")}
    if not isinstance(labels, dict):
        raise InputError(path, f"label2id: expected an object of label to id; found {show(labels)}")
    return {"id2label": {str(number): label for label, number in labels.items()}, "label2id": labels}


def _describe(raw: Mapping[str, Any], name: str, head: Head | None, base: Checkpoint) -> Iterator[str]:
    called = "" if raw.get("name") == name else f" (there {raw.get('name')})"
    yield (
        f"adapter {name}{called}, of {raw.get('version') or 'an unknown version of the library'}, trained on "
        f"{raw.get('model_name') or 'a base that it does not name'}: only its sizes could be compared with this base"
    )
    if head:
        yield f"head: {head.architecture}, saved with the adapter"
    else:
        yield f"head: the base's ({base.spec.task}); none was saved with the adapter"
