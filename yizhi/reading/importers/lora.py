"""A LoRA adapter saved by peft, merged into its base: `yizhi import FOLDER --base BASE`.

LoRA (Hu et al., https://arxiv.org/abs/2106.09685): W' = W + s·B·A, s = alpha / r. rsLoRA
(https://arxiv.org/abs/2312.03732): s = alpha / √r. DoRA (https://arxiv.org/abs/2402.09353): each row of W + s·B·A is
brought to its own learned length.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, collect_faults, show
from yizhi.model.architectures import FAMILIES, class_names
from yizhi.model.config import EncoderConfig
from yizhi.model.family import Family
from yizhi.model.label_heads import ANSWER, SEQUENCE, TOKENS, task_of
from yizhi.reading.checkpoint import Checkpoint, canonical_name
from yizhi.reading.folder_files import ADAPTER
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Ignored, Place
from yizhi.reading.importers.joined import read_tensors, without_parts
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.reading.weight_files import TensorFile
from yizhi.storage.json_files import read_json_object

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MERGED = "merged into the base's tensor"
_TASKS = {"SEQ_CLS": SEQUENCE, "TOKEN_CLS": TOKENS, "QUESTION_ANS": ANSWER, "FEATURE_EXTRACTION": "features"}
# Settings that say how the adapter was trained, or what its tensors say themselves.
_HARMLESS = (
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying"),
    *("eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern"),
    *("layers_to_transform", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save"),
    *("peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config"),
    *("target_modules", "task_type", "use_dora", "use_rslora"),
)
# The others change the base's own weights before training, and peft does so again when it loads the adapter.
_PLAIN_STARTS = (True, False, "gaussian", "eva")
_PREFIX, _WRAPPED = "base_model.model.", (".base_layer.", ".modules_to_save.")
_PART = re.compile(r"(.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(?:\.weight)?")


@dataclass(frozen=True)
class _Change:
    """What is added to one weight, [outputs, inputs] or, of a table, [rows, columns]."""

    down: ForeignTensor
    up: ForeignTensor
    magnitude: ForeignTensor | None
    scale: float
    is_table: bool

    @property
    def shape(self) -> tuple[int, ...]:
        shape = (self.up.shape[0], self.down.shape[1])
        return shape[::-1] if self.is_table else shape

    def merge(self, weight: Callable[[], NDArray[Any]]) -> NDArray[np.float32]:
        """The sum, computed in float64 and rounded once."""
        change = self.up.read().astype(np.float64) @ self.down.read().astype(np.float64) * self.scale
        merged: NDArray[np.float64] = weight().astype(np.float64) + (change.T if self.is_table else change)
        if self.magnitude is not None:
            lengths = np.linalg.norm(merged, axis=1, keepdims=True)
            merged *= self.magnitude.read().astype(np.float64).reshape(-1, 1) / lengths
        return merged.astype(np.float32)


def is_lora(folder: Path) -> bool:
    """Whether a folder holds an adapter of peft's."""
    return (folder / ADAPTER).is_file() and "peft_type" in read_json_object(folder / ADAPTER)


def merge_lora(
    base: Checkpoint, files: Sequence[TensorFile], folder: Path, text: TextTokenizer
) -> tuple[Checkpoint, ForeignWeights, tuple[str, ...]]:
    """The checkpoint of a base with an adapter merged into it; the tensors that changed; and notes for the report.

    files: the base's. text: the tokenizer of the result. Raises InputError listing every fault: an adapter for
    another base, settings that are not computed here, tensors that are missing or not known.
    """
    raw = read_json_object(folder / ADAPTER)
    faults = list(_find_unknown_settings(raw))
    tensors = collect_faults(faults, lambda: read_tensors(folder, WEIGHTS)) or []
    if faults:
        raise InputError(folder, faults)
    family = FAMILIES[base.config.model_type]
    changes, others = _sort_out(tensors, raw, family, faults)
    shapes = {parameter.name: parameter.shape for parameter in base.parameters()}
    for name, change in changes.items():
        if shapes.get(name) != change.shape:
            expected = list(shapes[name]) if name in shapes else "no such tensor"
            faults.append(f"{name}: is for another base: expected {expected}; found {list(change.shape)}")
    if faults:
        raise InputError(folder, faults)
    merged = [
        ForeignTensor(name, "F32", change.shape, partial(change.merge, partial(base.array, name)))
        for name, change in changes.items()
    ]
    names = {canonical_name(_plain(tensor.name), family): tensor for tensor in others}
    architecture = _architecture(raw, base, family, folder)
    table = f"{family.word_embeddings}.weight"
    # A table that was only resized is saved too, and then the decoder was tied to it again.
    apart = table in names and table.removesuffix(".weight").rpartition(".")[2] in (raw.get("modules_to_save") or ())
    if (table in changes or apart) and _fills_masks(architecture, base):
        faults.append(
            "word embeddings: the decoder shares them, and peft leaves the decoder as it was: cannot be merged"
        )
    config = EncoderConfig.from_dict(_join_config(base, architecture, names), folder)
    weights = ForeignWeights(folder, [*merged, *others], partial(_place, family))
    keeps_head = architecture == base.config.architecture or architecture is None
    kept = without_parts(base, files, set(weights.entries), keep_head=keeps_head)
    faults += text.find_misfit(config.vocab_size)
    if faults:
        raise InputError(folder, faults)
    notes = tuple(_describe(raw, len(merged), [*names], architecture, config))
    try:
        return Checkpoint(base.folder, [*kept, weights], config, text), weights, notes
    except InputError as error:
        raise InputError(folder, error.faults) from None


def _find_unknown_settings(raw: Mapping[str, Any]) -> Iterator[str]:
    if raw.get("peft_type") != "LORA":
        yield f"{ADAPTER}: peft_type: expected 'LORA'; found {show(raw.get('peft_type'))}, which is not merged here"
        return
    start = raw.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        yield (
            f"{ADAPTER}: init_lora_weights: {show(start)} changes the base's weights as well: merge it with peft "
            "(merge_and_unload), and import the result"
        )
    for key, value in raw.items():
        if key not in _HARMLESS and value:
            yield f"{ADAPTER}: {key}: {show(value)} is not computed here: merge it with peft (merge_and_unload)"
    if not isinstance(raw.get("alpha_pattern") or {}, dict):
        yield f"{ADAPTER}: alpha_pattern: expected an object; found {show(raw['alpha_pattern'])}"
    numbers = {"lora_alpha": raw.get("lora_alpha"), **_numbers(raw.get("alpha_pattern"), "alpha_pattern")}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield f"{ADAPTER}: {key}: expected a number; found {show(value)}"
    for key in numbers:
        pattern = key.partition(" ")[2]
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"{ADAPTER}: alpha_pattern: {show(pattern)} is not a pattern: {error}"


def _numbers(pattern: object, key: str) -> dict[str, Any]:
    return {f"{key} {name}": value for name, value in pattern.items()} if isinstance(pattern, dict) else {}


def _sort_out(
    tensors: Sequence[ForeignTensor], raw: Mapping[str, Any], family: Family, faults: list[str]
) -> tuple[dict[str, _Change], list[ForeignTensor]]:
    """Canonical name of a weight -> what is added to it; and the tensors that replace the base's."""
    parts: dict[str, dict[str, ForeignTensor]] = {}
    others = []
    for tensor in tensors:
        found = _PART.fullmatch(tensor.name)
        if found:
            parts.setdefault(found[1], {})[found[2]] = tensor
        else:
            others.append(tensor)
    changes = {}
    for module, found_parts in sorted(parts.items()):
        is_table = any(part.startswith("embedding") for part in found_parts)
        down, up = (found_parts.get(f"embedding_{part}" if is_table else part) for part in "AB")
        magnitude = found_parts.get("magnitude_vector")
        if down is None or up is None or [len(part.shape) for part in (down, up)] != [2, 2]:
            found_shapes = ", ".join(f"lora_{part} {list(one.shape)}" for part, one in found_parts.items())
            faults.append(f"{module}: expected lora_A [r, inputs] and lora_B [outputs, r]; found {found_shapes}")
        elif down.shape[0] != up.shape[1] or not down.shape[0]:
            faults.append(f"{module}: lora_A {list(down.shape)} and lora_B {list(up.shape)} differ in r")
        elif is_table and magnitude is not None:
            faults.append(f"{module}: DoRA of a table is not computed here: merge it with peft (merge_and_unload)")
        else:
            name = canonical_name(f"{_plain(module)}.weight", family)
            changes[name] = _Change(down, up, magnitude, _scale(raw, _plain(module), down.shape[0]), is_table)
    return changes, others


def _scale(raw: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / √r: peft takes the first pattern that the end of the module's name matches."""
    patterns = raw.get("alpha_pattern") or {}
    alpha = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), raw["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if raw.get("use_rslora") else rank)


def _plain(name: str) -> str:
    """A name as the model has it, without what peft wraps around its modules."""
    for wrapper in _WRAPPED:
        name = name.replace(wrapper, ".")
    return name.removeprefix(_PREFIX)


def _place(family: Family, tensor: ForeignTensor) -> Place | Ignored:
    if ".original_module." in tensor.name:
        return Ignored("the base's own; the adapter's tensor replaces it")
    name, masked_lm = canonical_name(_plain(tensor.name), family), family.masked_lm_names
    # Saved where the vocabulary was resized: it takes the place of the base's, under whichever name that has.
    return Place(masked_lm.decoder_bias if name == masked_lm.decoder_bias_alias else name)


def _architecture(raw: Mapping[str, Any], base: Checkpoint, family: Family, folder: Path) -> str | None:
    """The class that the adapter was trained in; the base's where the adapter does not say."""
    mapping, task = raw.get("auto_mapping"), raw.get("task_type")
    said = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if said is None and task is None:
        return base.config.architecture
    classes = class_names(family)
    known = {key: classes[value] for key, value in _TASKS.items()}
    architecture = said if said in classes.values() else known.get(str(task))
    if architecture is None:
        raise InputError(
            folder,
            f"{ADAPTER}: expected task_type {', '.join(_TASKS)}, or a base_model_class of {family.class_name}'s; "
            f"found {show(task)}, {show(said)}",
        )
    return architecture


def _fills_masks(architecture: str | None, base: Checkpoint) -> bool:
    tied = base.config.tie_word_embeddings
    return tied and (base.spec.task == "fill-mask" if architecture is None else architecture.endswith("ForMaskedLM"))


def _join_config(base: Checkpoint, architecture: str | None, names: Mapping[str, ForeignTensor]) -> dict[str, Any]:
    """The base's `config.json` for the class of the adapter: its labels and the size of its vocabulary."""
    raw, family = dict(base.published_config()), FAMILIES[base.config.model_type]
    if architecture:
        raw["architectures"] = [architecture]
    table = names.get(f"{family.word_embeddings}.weight")
    if table is not None and len(table.shape) == 2:
        raw["vocab_size"] = table.shape[0]
    head = family.label_heads.get(task_of(architecture) or "")
    projection = names.get(f"{head.projection}.weight") if head else None
    if projection is not None and projection.shape and _count_labels(raw) != projection.shape[0]:
        raw = {key: value for key, value in raw.items() if key not in ("id2label", "label2id", "num_labels")}
        labels = [f"LABEL_{number}" for number in range(projection.shape[0])]
        raw["id2label"] = {str(number): label for number, label in enumerate(labels)}
        raw["label2id"] = {label: number for number, label in enumerate(labels)}
    return raw


def _count_labels(raw: Mapping[str, Any]) -> int:
    labels = raw.get("id2label")
    return len(labels) if isinstance(labels, dict) else 0


def _describe(
    raw: Mapping[str, Any], merged: int, replaced: Sequence[str], architecture: str | None, config: EncoderConfig
) -> Iterator[str]:
    base = raw.get("base_model_name_or_path") or "a base that it does not name"
    kind = "DoRA" if raw.get("use_dora") else "LoRA"
    yield f"{kind} adapter, trained on {base}: merged into {merged} weights; {len(replaced)} tensors come from it whole"
    if architecture:
        yield f"architectures: {architecture}"
    labels = config.raw.get("id2label") or {}
    if task_of(architecture) and labels and all(str(label).startswith("LABEL_") for label in labels.values()):
        yield "labels: neither the adapter nor the base names them: set id2label in config.json"
