"""The files that tell sentence-transformers how a folder's sentence embeddings are made."""

from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.model.spec import SPLADE, Dense, Parameter, Pooling
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.safetensors_file import write_safetensors
from yizhi.reading.sentence_dense import ACTIVATIONS, KEPT, dense_name
from yizhi.reading.sentence_settings import MODES, MODULES, PROMPTS
from yizhi.reading.weight_files import WEIGHTS
from yizhi.release.artifact import ArtifactWriter

FILES = (
    *(MODULES, PROMPTS, "sentence_bert_config.json", "1_Pooling/config.json"),
    *(f"[0-9]_{kind}/{name}" for kind in ("Dense", "Dimensions") for name in ("config.json", WEIGHTS)),
)
_OLDEST = ("cls", "mean", "max")
_KEYS = {mode: key for key, mode in MODES.items()}


def write_modules(
    writer: ArtifactWriter, checkpoint: Checkpoint, model_arguments: Mapping[str, str], keep_bf16: bool = False
) -> None:
    """Write `modules.json` and its files, so that `SentenceTransformer(folder)` gives `sentence_embedding`.

    sentence-transformers runs the encoder, and the modules after it. model_arguments: how it loads the encoder.
    keep_bf16: as `write_tensors` takes it. Does nothing if the spec has no pooling, for `splade`, which `SparseEncoder`
    computes with a masked-language model, and for a model with an image stream, which transformers has no class for.
    """
    spec, pooling = checkpoint.spec, checkpoint.spec.pooling
    if not pooling or pooling.mode == SPLADE or spec.image:
        return
    kinds = ["Transformer", "Pooling", *("Dense" for _ in pooling.dense)]
    cuts = pooling.dimensions is not None and pooling.normalize
    kinds += [*(["Dimensions"] if cuts else []), *(["Normalize"] if pooling.normalize else [])]
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    # Classes by the names that every release of sentence-transformers has known them by.
    classes = ["Dense" if kind == "Dimensions" else kind for kind in kinds]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(zip(paths, classes, strict=True))
    ]
    writer.write_json(MODULES, modules)
    # Old releases read `model_args`; newer ones read it as `model_kwargs`.
    arguments = {"model_args": dict(model_arguments)} if model_arguments else {}
    length = {"max_seq_length": checkpoint.text.length(spec.config.longest), "do_lower_case": False}
    writer.write_json("sentence_bert_config.json", {**length, **arguments})
    # Old releases take no key for a mode that they do not know.
    modes = {key: mode == pooling.mode for mode, key in _KEYS.items() if mode in (*_OLDEST, pooling.mode)}
    writer.write_json("1_Pooling/config.json", {"word_embedding_dimension": spec.config.hidden_size, **modes})
    for number, (dense, path) in enumerate(zip(pooling.dense, paths[2:], strict=False)):
        _write_dense(writer, checkpoint, number, dense, path, keep_bf16)
    if cuts:
        _write_dimensions(writer, pooling, spec.config.hidden_size, paths[-2])
    prompts = checkpoint.sentence.prompts if checkpoint.sentence else {}
    settings: dict[str, Any] = {"prompts": dict(prompts)} if prompts else {}
    if pooling.dimensions and not cuts:
        settings["truncate_dim"] = pooling.dimensions
    if settings:
        writer.write_json(PROMPTS, settings)


def write_tensors(
    checkpoint: Checkpoint,
    writer: ArtifactWriter,
    name: str,
    parameters: Sequence[Parameter],
    tables: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
    prefix: str = "",
    keep_bf16: bool = False,
) -> None:
    """Write parameters as float32 into a safetensors file, under their names without a prefix, and then tables.

    keep_bf16: the checkpoint's bfloat16 tensors stay bfloat16.
    """
    dtypes = {parameter: checkpoint.dtype_of(parameter.name, keep_bf16) for parameter in parameters}
    header = {one.name.removeprefix(prefix): (dtype, one.shape) for one, dtype in dtypes.items()}
    header |= {table: ("F32", array.shape) for table, array in tables.items()}
    chunks = chain.from_iterable(checkpoint.chunks(one, dtype=dtype) for one, dtype in dtypes.items())
    numbers = (array.reshape(-1).view(np.uint8).data for array in tables.values())
    with writer.open(name) as file:
        write_safetensors(file, header, chain(chunks, numbers))


def _write_dense(
    writer: ArtifactWriter, checkpoint: Checkpoint, number: int, dense: Dense, path: str, keep_bf16: bool
) -> None:
    classes = {function: name for name, function in ACTIVATIONS.items()}
    parameters = list(dense.linear.parameters())
    writer.write_json(
        f"{path}/config.json",
        {
            "in_features": dense.linear.inputs,
            "out_features": dense.linear.outputs,
            "bias": len(parameters) > 1,
            "activation_function": f"torch.nn.{classes[dense.activation]}",
        },
    )
    prefix = f"{dense_name(number)}."
    write_tensors(checkpoint, writer, f"{path}/{WEIGHTS}", parameters, prefix=prefix, keep_bf16=keep_bf16)


def _write_dimensions(writer: ArtifactWriter, pooling: Pooling, hidden: int, path: str) -> None:
    """A Dense that keeps the first numbers, exactly: `truncate_dim` would cut what Normalize gave."""
    outputs, inputs = pooling.size(hidden), Pooling(pooling.mode, dense=pooling.dense).size(hidden)
    config = {"in_features": inputs, "out_features": outputs, "bias": False, "activation_function": "torch.nn.Identity"}
    writer.write_json(f"{path}/config.json", config)
    with writer.open(f"{path}/{WEIGHTS}") as file:
        weight = np.eye(outputs, inputs, dtype=np.float32)
        write_safetensors(file, {KEPT: ("F32", weight.shape)}, [weight.data])
