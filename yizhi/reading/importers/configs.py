"""From a configuration as published to a canonical `config.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yizhi.errors import InputError
from yizhi.model.config import MODEL_TYPES, EncoderConfig, name_in_file
from yizhi.reading.checkpoint import explain_names, find_families
from yizhi.reading.importers.opened import GOOGLE, PADDLE, TRANSFORMERS, UER, Opened
from yizhi.reading.importers.pdparams import canonical_config as canonical_paddle_config
from yizhi.reading.importers.uer import canonical_config as canonical_uer_config

GELU_NOTE = (
    "hidden_act: 'gelu' stays, and means the exact erf form. Google's later TensorFlow code computed the tanh form "
    "under that name (they differ by at most 0.0005). Set hidden_act to gelu_new if your model was trained with it"
)


def canonical_config(raw: Mapping[str, Any], path: Path, opened: Opened) -> dict[str, Any]:
    """`model_type` set, and what transformers would assume written out.

    Raises InputError where the configuration is another project's, or another family's, than the tensors.
    """
    convention = find_convention(raw)
    if opened.convention == UER:
        if convention != UER:
            raise InputError(
                path, "the tensors are UER-py's: expected UER-py's own config, with layers_num and heads_num"
            )
        (weights,) = opened.weights
        config = canonical_uer_config(raw, path, weights)  # type: ignore[arg-type]
    elif opened.convention == PADDLE:
        (weights,) = opened.weights
        config = canonical_paddle_config(raw, path, weights)  # type: ignore[arg-type]
    elif convention == UER:
        raise InputError(
            path,
            "is a UER-py config (layers_num, heads_num), but the tensors are not UER-py's: expected the config.json "
            "published with them",
        )
    else:
        families = find_families([name for file in opened.weights for name in file.entries])
        config = {**raw, "model_type": _check_family(raw, path, families)}
    checked = EncoderConfig.from_dict(config, path)
    written_out = {
        name_in_file(checked.model_type, "hidden_act"): checked.hidden_act,
        name_in_file(checked.model_type, "layer_norm_eps"): checked.layer_norm_eps,
    }
    if checked.embedding_size != checked.hidden_size:
        written_out["embedding_size"] = checked.embedding_size
    return {**config, **written_out}


def find_convention(raw: Mapping[str, Any]) -> str:
    """Whose configuration this is. Google's is transformers' without `model_type`."""
    if raw.keys() & {"layers_num", "heads_num"} and "num_hidden_layers" not in raw:
        return UER
    return TRANSFORMERS if "model_type" in raw else GOOGLE


def _check_family(raw: Mapping[str, Any], path: Path, families: Sequence[str]) -> object:
    if "model_type" not in raw:
        if len(families) != 1:
            raise InputError(path, "model_type: missing, and the tensors' names do not say which family they are")
        return families[0]
    model_type = raw["model_type"]
    if families and model_type not in families and model_type in MODEL_TYPES:
        raise InputError(path, f"model_type: found {model_type!r}, but {explain_names(model_type, families)}")
    return model_type
