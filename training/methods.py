"""Which parameters are trained: all, all but the bottom layers, LoRA's small matrices, or an adapter."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import transformers

from yizhi.errors import InputError
from yizhi.model.adapter_config import ADAPTED_FAMILIES
from yizhi.model.spec import parameters_of
from yizhi.reading.checkpoint import Checkpoint

# Beside the checkpoint's own files, where it is kept.
LORA_FOLDER = "lora"
# What an adapter is called in the checkpoint.
ADAPTER_NAME = "finetuned"


class Method(Protocol):
    """How a model is changed for training, and back into one that can be exported."""

    def prepare(self, model: transformers.PreTrainedModel, checkpoint: Checkpoint, new: Sequence[str]) -> Any:
        """The model to train. new: names of parameters that the checkpoint does not have.

        Raises InputError if the checkpoint cannot be trained with this method.
        """

    def finish(self, model: Any, folder: Path) -> transformers.PreTrainedModel:
        """The model to write, of the checkpoint's own architecture. Separate parts are written into `folder`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""


@dataclass(frozen=True)
class Full:
    """Every parameter. With freeze_layers: all but the embeddings and the bottom `freeze_layers` layers."""

    freeze_layers: int = 0

    def prepare(self, model: transformers.PreTrainedModel, checkpoint: Checkpoint, new: Sequence[str]) -> Any:
        """Raises InputError if there are fewer layers, or if the frozen layers share weights with later ones."""
        frozen = _bottom(checkpoint, self.freeze_layers) if self.freeze_layers else set()
        for name, parameter in model.named_parameters():
            # Some that are no weights never have a gradient: RoFormer's angles.
            parameter.requires_grad = parameter.requires_grad and name not in frozen
        return model

    def finish(self, model: Any, folder: Path) -> transformers.PreTrainedModel:
        """The model itself."""
        return model

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": "full", **asdict(self)}


@dataclass(frozen=True)
class Lora:
    """Low-rank updates of some linear layers (Hu et al. 2021, arXiv:2106.09685) and a new head. The rest is frozen.

    modules: the ends of those layers' names. keep: also write peft's own folder, `lora/`, with the separate updates.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.1
    modules: tuple[str, ...] = ("query", "value")
    keep: bool = False

    def prepare(self, model: transformers.PreTrainedModel, checkpoint: Checkpoint, new: Sequence[str]) -> Any:
        """Raises InputError for modules that the model does not have."""
        import peft

        names = [name for name, _ in model.named_modules()]
        unknown = [end for end in self.modules if not any(name.split(".")[-1] == end for name in names)]
        if unknown:
            raise InputError("`modules`", f"the model has no {', '.join(unknown)}")
        heads = {
            name for name, module in model.named_children() if name != model.base_model_prefix and _has_weights(module)
        }
        poolers = {name.split(".")[1] for name in new if name.startswith(f"{model.base_model_prefix}.")}
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(self.modules),
            modules_to_save=sorted(heads | poolers),
        )
        # Where the updates belong to, in peft's own folder.
        model.name_or_path = str(checkpoint.folder)
        return peft.get_peft_model(model, config)

    def finish(self, model: Any, folder: Path) -> transformers.PreTrainedModel:
        """The model with the updates added to its weights."""
        if self.keep:
            model.save_pretrained(folder / LORA_FOLDER)
        return model.merge_and_unload()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": "lora", **asdict(self), "modules": list(self.modules)}


@dataclass(frozen=True)
class Bottleneck:
    """A bottleneck adapter of the adapters library and a new head. The rest is frozen. docs/adapters.md

    kind: of BOTTLENECKS. reduction_factor: the width of a layer divided by that of its bottleneck; the configuration's
    own if None.
    """

    kind: str = "seq_bn"
    reduction_factor: float | None = None

    def prepare(self, model: transformers.PreTrainedModel, checkpoint: Checkpoint, new: Sequence[str]) -> Any:
        """Raises InputError for a family that the library has no adapters for."""
        import adapters

        if checkpoint.config.model_type not in ADAPTED_FAMILIES:
            known = ", ".join(ADAPTED_FAMILIES)
            raise InputError("`method` adapter", f"expected one of {known}; found {checkpoint.config.model_type}")
        adapters.init(model)
        adapted: Any = model  # the adapters library has added its methods
        adapted.add_adapter(ADAPTER_NAME, config=adapters.AdapterConfig.load(self.kind, **self._changes()))
        adapted.train_adapter(ADAPTER_NAME)
        for name, parameter in model.named_parameters():
            if name in new:  # a pooler that the base does not have belongs to the encoder, which is frozen
                parameter.requires_grad = True
        return model

    def finish(self, model: Any, folder: Path) -> transformers.PreTrainedModel:
        """The model itself, with the adapter in it."""
        return model

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": "adapter", **asdict(self)}

    def _changes(self) -> dict[str, float]:
        return {} if self.reduction_factor is None else {"reduction_factor": self.reduction_factor}


def _bottom(checkpoint: Checkpoint, count: int) -> set[str]:
    """Names of the embeddings' parameters and of the first `count` layers'."""
    spec = checkpoint.spec
    if not 0 < count <= len(spec.blocks):
        raise InputError("`freeze_layers`", f"expected 0 … {len(spec.blocks)}; found {count}")
    embeddings = (
        spec.word_embeddings,
        spec.position_embeddings,
        spec.token_type_embeddings,
        spec.task_type_embeddings,
        spec.embeddings_norm,
        spec.embeddings_projection,
    )
    below = {parameter.name for parameter in parameters_of((embeddings, spec.blocks[:count]))}
    above = {parameter.name for parameter in parameters_of(spec.blocks[count:])}
    if below & above:
        raise InputError("`freeze_layers`", "expected 0, because all layers share their weights")
    return below


def _has_weights(module: Any) -> bool:
    return next(module.parameters(), None) is not None
