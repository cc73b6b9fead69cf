"""PaddleNLP's `.pdparams`: ERNIE and BERT, whose linear weights are stored [inputs, outputs]."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.reading.importers.array_pickle import read_arrays
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Ignored, Place
from yizhi.reading.importers.opened import PADDLE, Opened
from yizhi.reading.safetensors_file import SAFETENSORS_TYPES

# A dictionary beside the tensors, of Paddle's own names for them.
_NAMES = "StructuredToParameterName@@"
# PaddleNLP's module, below the family's prefix -> transformers' (paddlenlp/transformers/{ernie,bert}/modeling.py).
_MODULES = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings.task_type_embeddings": "embeddings.task_type_embeddings",
    "embeddings.layer_norm": "embeddings.LayerNorm",
    "pooler.dense": "pooler.dense",
}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_LAYER_MODULES = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}
_HEADS = {
    "cls.predictions.transform": "cls.predictions.transform.dense",
    "cls.predictions.layer_norm": "cls.predictions.transform.LayerNorm",
    "classifier": "classifier",
}
# The decoder is stored as the embeddings are, which it mostly is.
_DECODER = {
    "cls.predictions.decoder_weight": "cls.predictions.decoder.weight",
    "cls.predictions.decoder_bias": "cls.predictions.bias",
}
_PREFIX = re.compile(r"(ernie|bert)\.")
_CLASS = re.compile(r"(Ernie|Bert)(Model|For\w+)")


def open_pdparams(path: Path) -> Opened:
    """Open a state dictionary that `paddle.save` wrote. Raises InputError."""
    state = read_arrays(path)
    state.pop(_NAMES, None)
    others = [
        f"{show(name)}: expected an array; found {type(value).__name__}"
        for name, value in state.items()
        if not isinstance(name, str) or not isinstance(value, np.ndarray)
    ]
    if others:
        raise InputError(path, others)
    tensors = [_describe(name, array) for name, array in state.items()]
    return Opened("PaddleNLP .pdparams", [ForeignWeights(path, tensors, place_name)], PADDLE)


def place_name(tensor: ForeignTensor) -> Place | Ignored | None:
    """`ernie.encoder.layers.0.linear1.weight` -> `ernie.encoder.layer.0.intermediate.dense.weight`, transposed."""
    if tensor.name.startswith("cls.seq_relationship."):
        return Ignored("the next-sentence or sentence-order head; no output uses it")
    if tensor.name in _DECODER:
        return Place(_DECODER[tensor.name])
    module, _, leaf = tensor.name.rpartition(".")
    if leaf not in ("weight", "bias"):
        return None
    found = _HEADS.get(module) or _place_encoder_module(module)
    if found is None:
        return None
    is_kernel = leaf == "weight" and len(tensor.shape) == 2 and not module.endswith("_embeddings")
    return Place(f"{found}.{leaf}", transpose=is_kernel)


def canonical_config(raw: Mapping[str, Any], source: Path, weights: ForeignWeights) -> dict[str, Any]:
    """A `config.json` from PaddleNLP's own, of any release, with what it leaves out taken from the tensors' shapes.

    Until 2.4 `init_class` named the class, and `init_args` the encoder's settings. Raises InputError for another class.
    """
    inner = raw.get("init_args")
    settings = inner[0] if isinstance(inner, list) and inner and isinstance(inner[0], dict) else {}
    config = {**settings, **{key: value for key, value in raw.items() if key != "init_args"}}
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else config.pop("init_class", None)
    match = _CLASS.fullmatch(str(named))
    if match is None:
        raise InputError(
            source, f"init_class: expected ErnieModel, BertModel or one of their tasks; found {show(named)}"
        )
    if match[2] == "ForQuestionAnswering":
        raise InputError(source, f"{named} is not read: its head is called classifier, as other heads are")
    family = match[1].lower()
    if "num_classes" in config:
        config.setdefault("num_labels", config.pop("num_classes"))
    task_rows = _size(weights, family, "embeddings.task_type_embeddings.weight", 0)
    of_shapes = {
        "vocab_size": _size(weights, family, "embeddings.word_embeddings.weight", 0),
        "hidden_size": _size(weights, family, "embeddings.word_embeddings.weight", 1),
        "max_position_embeddings": _size(weights, family, "embeddings.position_embeddings.weight", 0),
        "type_vocab_size": _size(weights, family, "embeddings.token_type_embeddings.weight", 0),
        "intermediate_size": _size(weights, family, "encoder.layer.0.intermediate.dense.weight", 0),
    }
    return {
        **of_shapes,
        **{key: value for key, value in config.items() if key != "init_class"},
        "model_type": family,
        "architectures": [str(named).replace("ForPretraining", "ForPreTraining")],
        **({"use_task_id": task_rows is not None} if family == "ernie" else {}),
        **({"task_type_vocab_size": task_rows} if task_rows else {}),
    }


def _place_encoder_module(module: str) -> str | None:
    prefix = _PREFIX.match(module)
    start = prefix[0] if prefix else ""
    below = module.removeprefix(start)
    if below in _MODULES:
        return start + _MODULES[below]
    layer = _LAYER.fullmatch(below)
    if layer is None or layer[2] not in _LAYER_MODULES:
        return None
    return f"{start}encoder.layer.{layer[1]}.{_LAYER_MODULES[layer[2]]}"


def _size(weights: ForeignWeights, family: str, name: str, axis: int) -> int | None:
    """One size of a tensor, which may lack its family's prefix; None where it is not there."""
    entry = weights.entries.get(f"{family}.{name}") or weights.entries.get(name)
    return entry.shape[axis] if entry and len(entry.shape) > axis else None


def _describe(name: str, array: NDArray[Any]) -> ForeignTensor:
    if array.dtype == np.uint16:  # numpy has no bfloat16; Paddle keeps its bits so
        return ForeignTensor(name, "BF16", array.shape, lambda: (array.astype(np.uint32) << 16).view(np.float32))
    return ForeignTensor(name, SAFETENSORS_TYPES.get(array.dtype, str(array.dtype)), array.shape, lambda: array)
