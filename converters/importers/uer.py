"""UER-py and TencentPretrain `.bin` files: BERT, and ALBERT with shared layers.

Their LayerNorm (uer/layers/layer_norm.py) is γ (x − mean) / (s + 1e-6) + β with the unbiased standard deviation
s = σ √(n / (n − 1)), where σ² is the variance that everybody else divides by. So γ √((n − 1) / n) in the usual
LayerNorm gives the same but for the 1e-6: what remains is a factor 1 + 1e-6 / s. docs/importing.md has the
measurements.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters.architectures import FAMILIES
from converters.errors import InputError, show
from converters.importers.foreign import ForeignTensor, ForeignWeights, Place
from converters.importers.opened import UER, Opened

FOLDED = (
    "LayerNorm: UER-py's divides by the unbiased deviation + 1e-6. Its scale is folded in, times sqrt((n-1)/n); "
    "the rest, a factor of 1 + 1e-6/deviation, is not, so outputs differ a little: see docs/importing.md"
)

# TencentPretrain's names, and older names of UER-py's next-sentence (nsp) and sentence-order (sop) targets -> UER-py's.
_OTHER_NAMES = (
    (r"^embedding\.word\.embedding\.", "embedding.word_embedding."),
    (r"^embedding\.pos\.embedding\.", "embedding.position_embedding."),
    (r"^embedding\.seg\.embedding\.", "embedding.segment_embedding."),
    (r"^target\.mlm\.(linear_[12])\.", r"target.mlm_\1."),
    (r"^target\.mlm\.layer_norm\.", "target.layer_norm."),
    (r"^target\.(?:nsp_|sop_|sp\.)(linear_[12])\.", r"target.sp_\1."),
)

# UER-py's module -> BERT's, ALBERT's. The query comes first: `zip(self.linear_layers, (query, key, value))`.
_MODULES = {
    "embedding.word_embedding": ("bert.embeddings.word_embeddings", "albert.embeddings.word_embeddings"),
    "embedding.position_embedding": ("bert.embeddings.position_embeddings", "albert.embeddings.position_embeddings"),
    "embedding.segment_embedding": ("bert.embeddings.token_type_embeddings", "albert.embeddings.token_type_embeddings"),
    "embedding.layer_norm": ("bert.embeddings.LayerNorm", "albert.embeddings.LayerNorm"),
    "encoder.linear": (None, "albert.encoder.embedding_hidden_mapping_in"),
    "target.sp_linear_1": ("bert.pooler.dense", "albert.pooler"),
    "target.sp_linear_2": ("cls.seq_relationship", "sop_classifier.classifier"),
    "target.mlm_linear_1": ("cls.predictions.transform.dense", "predictions.dense"),
    "target.layer_norm": ("cls.predictions.transform.LayerNorm", "predictions.LayerNorm"),
    "target.mlm_linear_2": ("cls.predictions.decoder", "predictions.decoder"),
}
_LAYER_MODULES = {
    "self_attn.linear_layers.0": ("attention.self.query", "attention.query"),
    "self_attn.linear_layers.1": ("attention.self.key", "attention.key"),
    "self_attn.linear_layers.2": ("attention.self.value", "attention.value"),
    "self_attn.final_linear": ("attention.output.dense", "attention.dense"),
    "layer_norm_1": ("attention.output.LayerNorm", "attention.LayerNorm"),
    "feed_forward.linear_1": ("intermediate.dense", "ffn"),
    "feed_forward.linear_2": ("output.dense", "ffn_output"),
    "layer_norm_2": ("output.LayerNorm", "full_layer_layer_norm"),
}
_LAYER = re.compile(r"encoder\.transformer\.(?:(\d+)\.)?(.+)")
_LEAVES = {"weight": "weight", "bias": "bias"}
_NORM_LEAVES = {"gamma": "weight", "beta": "bias"}

# What else a UER-py configuration may ask for -> the only values that BERT and ALBERT have.
_EXPECTED: Mapping[str, tuple[Any, ...]] = {
    "encoder": ("transformer",),
    "embedding": ("word_pos_seg", ["word", "pos", "seg"]),
    "mask": ("fully_visible",),
    "layernorm_positioning": ("post",),
    "layernorm": ("normal",),
    "feed_forward": ("dense",),
    "decoder": (None,),
    "tgt_embedding": (None,),
    "remove_embedding_layernorm": (False,),
    "remove_transformer_bias": (False,),
    "remove_attention_scale": (False,),
    "relative_position_embedding": (False,),
    "rotary_position_embedding": (False,),
    "has_residual_attention": (False,),
}
_SIZES = {
    "emb_size": "embedding_size",
    "hidden_size": "hidden_size",
    "layers_num": "num_hidden_layers",
    "heads_num": "num_attention_heads",
    "feedforward_size": "intermediate_size",
}


def is_uer(names: Iterable[str]) -> bool:
    """Whether these are UER-py's names."""
    return any(name.startswith(("embedding.word_embedding.", "embedding.word.embedding.")) for name in names)


def open_uer(path: Path, tensors: list[ForeignTensor]) -> Opened:
    """Place UER-py's tensors. Raises InputError naming each unknown one."""
    shared = any(tensor.name.startswith("encoder.transformer.self_attn.") for tensor in tensors)
    weights = ForeignWeights(path, tensors, lambda tensor: place_name(tensor, shared))
    notes = (FOLDED, "segment embeddings: row 0, which UER-py gives to padding, is dropped; rows 1 and 2 are kept")
    return Opened(f"UER-py .bin ({'ALBERT' if shared else 'BERT'})", [weights], UER, notes)


def place_name(tensor: ForeignTensor, shared: bool) -> Place | None:
    """`encoder.transformer.0.layer_norm_1.gamma` -> `bert.encoder.layer.0.attention.output.LayerNorm.weight`, folded.

    shared: the layers are one, and this is ALBERT.
    """
    name = tensor.name
    for pattern, replacement in _OTHER_NAMES:
        name = re.sub(pattern, replacement, name)
    module, _, leaf = name.rpartition(".")
    target = _place_module(module, shared)
    leaves = _NORM_LEAVES if "layer_norm" in module else _LEAVES
    if target is None or leaf not in leaves:
        return None
    size = tensor.shape[0] if tensor.shape else 0
    scale = math.sqrt((size - 1) / size) if leaf == "gamma" and size > 1 else 1.0
    # The MLM head's bias goes by the name that the tied decoder shares with the untied one.
    target = target.removesuffix(".decoder") if leaf == "bias" and target.endswith("predictions.decoder") else target
    skip = 1 if module == "embedding.segment_embedding" else 0
    return Place(f"{target}.{leaves[leaf]}", skip_rows=skip, scale=scale)


def _place_module(module: str, shared: bool) -> str | None:
    if module in _MODULES:
        return _MODULES[module][shared]
    match = _LAYER.fullmatch(module)
    if match is None or match[2] not in _LAYER_MODULES or (match[1] is None) != shared:
        return None
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0" if shared else f"bert.encoder.layer.{match[1]}"
    return f"{layer}.{_LAYER_MODULES[match[2]][shared]}"


def canonical_config(raw: Mapping[str, Any], source: Path, weights: ForeignWeights) -> dict[str, Any]:
    """A `config.json` from UER-py's own, with what it leaves out taken from the tensors' shapes.

    Raises InputError, listing every setting that BERT and ALBERT do not have.
    """
    shared, factorised = bool(raw.get("parameter_sharing")), bool(raw.get("factorized_embedding_parameterization"))
    model_type = "albert" if shared else "bert"
    faults = [
        f"{key}: expected {' or '.join(map(show, expected))}; found {show(raw[key])}"
        for key, expected in _EXPECTED.items()
        if key in raw and raw[key] not in expected
    ]
    if shared != factorised:
        faults.append(
            "parameter_sharing and factorized_embedding_parameterization: expected both (ALBERT) or neither (BERT)"
        )
    if "hidden_act" not in raw:
        faults.append(
            "hidden_act: missing. UER-py computed 'gelu' before it had this setting; add it if yours is that old"
        )
    has_shared = any(name.startswith("albert.") for name in weights.entries)
    if shared != has_shared:
        found = "are shared by all layers (ALBERT)" if has_shared else "are one set per layer (BERT)"
        faults.append(f"parameter_sharing: found {shared}, but the tensors {found}")
    if faults:
        raise InputError(source, faults)
    rows = {role: _rows(weights, f"{model_type}.embeddings.{role}.weight") for role in _TABLES}
    config = {ours: raw[theirs] for theirs, ours in _SIZES.items() if theirs in raw}
    if not shared:
        config.pop("embedding_size", None)
    return {
        "model_type": model_type,
        **config,
        **{_TABLES[role]: count for role, count in rows.items()},
        "hidden_act": raw["hidden_act"],
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": _is_tied(weights, model_type),
    }


_TABLES = {
    "word_embeddings": "vocab_size",
    "position_embeddings": "max_position_embeddings",
    "token_type_embeddings": "type_vocab_size",
}


def _rows(weights: ForeignWeights, name: str) -> int | None:
    return weights.entries[name].shape[0] if name in weights.entries and weights.entries[name].shape else None


def _is_tied(weights: ForeignWeights, model_type: str) -> bool:
    """Whether the decoder repeats the embeddings, as it does after training with `--tie_weights`."""
    decoder = f"{FAMILIES[model_type].masked_lm_names.untied_decoder}.weight"
    embeddings = f"{model_type}.embeddings.word_embeddings.weight"
    if not {decoder, embeddings} <= weights.entries.keys():
        return True
    return np.array_equal(weights.array(decoder), weights.array(embeddings))
