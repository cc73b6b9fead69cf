"""From a checkpoint to transformers' model and back, with canonical names on both sides and without loss."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from yizhi.errors import InputError
from yizhi.model.architectures import FAMILIES, POSITIONS_TABLE
from yizhi.model.spec import Parameter
from yizhi.reading.checkpoint import WEIGHTS, Checkpoint
from yizhi.reading.tokenizer_sources import TOKENIZER_FILES
from yizhi.storage.json_files import to_json


def check_trainable(checkpoint: Checkpoint) -> None:
    """Raise InputError for a family that `build_model` does not build."""
    family = FAMILIES[checkpoint.config.model_type]
    if family.causal or family.image:
        raise InputError(checkpoint.folder, f"training is not supported for {checkpoint.config.model_type}")


def build_model(
    checkpoint: Checkpoint, class_suffix: str, config: Mapping[str, Any]
) -> tuple[transformers.PreTrainedModel, list[str]]:
    """transformers' model of the checkpoint's family for a task, with its weights; and the new parameters.

    class_suffix: such as ForTokenClassification. config: changes of the checkpoint's own `config.json`.
    Seed first: new parameters are random. Raises InputError if the encoder would differ from the checkpoint's.
    """
    if checkpoint.config.adapter:
        raise InputError(
            checkpoint.folder,
            f"holds the adapter {checkpoint.config.adapter.name}, which transformers' classes would drop: "
            "train the base that it was made from, or the adapter with the adapters library",
        )
    check_trainable(checkpoint)
    family = FAMILIES[checkpoint.config.model_type]
    model_class = getattr(transformers, family.class_name + class_suffix)
    raw = {key: value for key, value in checkpoint.config.raw.items() if key not in ("torch_dtype", "dtype")}
    # num_labels follows from id2label, and transformers would take the checkpoint's own instead.
    raw = {key: value for key, value in raw.items() if not (key == "num_labels" and "id2label" in config)}
    model = model_class(model_class.config_class.from_dict({**raw, **config}))
    weights = {p.name: torch.from_numpy(checkpoint.array(p.name).copy()) for p in checkpoint.parameters()}
    # transformers 5 holds an untied decoder's bias twice, and reads the second.
    alias, bias = family.masked_lm_names.decoder_bias_alias, family.masked_lm_names.decoder_bias
    if alias and bias in weights:
        weights[alias] = weights[bias]
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict(fitting, strict=False)
    model.tie_weights()
    new = [name for name, _ in model.named_parameters() if name not in fitting]
    poolers = (f"{family.pooler}.weight", f"{family.pooler}.bias")
    new = [name for name in new if family.ignored.get(name) != POSITIONS_TABLE]
    lost = [name for name in new if name.startswith(f"{family.prefix}.") and name not in poolers]
    if lost:
        raise InputError(checkpoint.folder, [f"{name}: not in the checkpoint" for name in lost])
    if checkpoint.spec.token_type_embeddings is None:
        model.register_forward_pre_hook(_without_token_types, with_kwargs=True)
    return model, new


def _without_token_types(
    module: torch.nn.Module, args: tuple[Any, ...], arguments: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a class takes that has none: some refuse the argument."""
    return args, {name: value for name, value in arguments.items() if name != "token_type_ids"}


def write_checkpoint(
    folder: Path,
    model: transformers.PreTrainedModel,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    carry: Iterable[Parameter] = (),
    keep_pooling: bool = False,
) -> None:
    """Write a canonical checkpoint: the model's weights, the base's vocabulary, and its config, changed by `config`.

    carry: the base's parameters to copy, which the model does not have. keep_pooling: copy the files of
    sentence-transformers, for a model of the same task, which pools as its base.
    folder: an empty one, such as `yizhi.storage.folders.new_folder` gives. Raises InputError if `yizhi export` would
    refuse the checkpoint.
    """
    architecture = type(model).__name__
    raw = {key: value for key, value in checkpoint.config.raw.items() if key not in ("torch_dtype", "num_labels")}
    raw |= {"architectures": [architecture], "dtype": "float32", **config}
    adapters: Any = getattr(model, "adapters_config", None)  # added by the adapters library
    if adapters is not None:
        raw["adapters"] = adapters.to_dict()
    (folder / "config.json").write_text(to_json(raw), encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (checkpoint.folder / name).exists():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    if keep_pooling and checkpoint.sentence:
        checkpoint.sentence.copy(checkpoint.folder, folder)
    # A tensor with two names is stored under its first.
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    state = model.state_dict()
    family = FAMILIES[checkpoint.config.model_type]
    state = {name: tensor for name, tensor in state.items() if family.ignored.get(name) != POSITIONS_TABLE}
    names = family.masked_lm_names
    if names.decoder_bias_alias in state:
        state[names.decoder_bias] = state.pop(names.decoder_bias_alias)
    for name, tensor in state.items():
        tensors.setdefault(tensor.data_ptr(), (name, tensor))
    stored = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.values()}
    for parameter in carry:
        stored.setdefault(parameter.name, torch.from_numpy(checkpoint.array(parameter.name).copy()))
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    with Checkpoint.open(folder) as written:
        written.check_values()
