"""UER-py and TencentPretrain `.bin` files: BERT, and ALBERT with shared layers.

Their LayerNorm (uer/layers/layer_norm.py) is γ (x − mean) / (s + 1e-6) + β with the unbiased standard deviation
s = σ √(n / (n − 1)), where σ² is the variance that everybody else divides by. So γ √((n − 1) / n) in the usual
LayerNorm gives the same but for the 1e-6: what remains is a factor 1 + 1e-6 / s. docs/importing.md has the
measurements.
"""

import math
import re
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from yizhi.errors import InputError, show
from yizhi.model.architectures import FAMILIES
from yizhi.model.family import Family
from yizhi.reading.importers.foreign import ForeignTensor, ForeignWeights, Ignored, Place
from yizhi.reading.importers.opened import UER, Opened

FOLDED = (
    "LayerNorm: UER-py divides by the unbiased deviation + 1e-6. The scale is folded in, times sqrt((n-1)/n). "
    "A factor of 1 + 1e-6/deviation is left, so outputs differ a little: see docs/importing.md"
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

# UER-py's module -> its role, as the fields of `Family` and of its names are called.
_ROLES = {
    "embedding.word_embedding": "word_embeddings",
    "embedding.position_embedding": "position_embeddings",
    "embedding.segment_embedding": "token_type_embeddings",
    "embedding.layer_norm": "embeddings_norm",
    "encoder.linear": "embeddings_projection",
    "target.sp_linear_1": "pooler",
    "target.mlm_linear_1": "masked_lm_names.dense",
    "target.layer_norm": "masked_lm_names.norm",
    "target.mlm_linear_2": "masked_lm_names.untied_decoder",
}
# The query comes first: `zip(self.linear_layers, (query, key, value))`.
_LAYER_ROLES = {
    "self_attn.linear_layers.0": "query",
    "self_attn.linear_layers.1": "key",
    "self_attn.linear_layers.2": "value",
    "self_attn.final_linear": "attention_output",
    "layer_norm_1": "attention_norm",
    "feed_forward.linear_1": "intermediate",
    "feed_forward.linear_2": "output",
    "layer_norm_2": "output_norm",
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
    family = FAMILIES["albert" if shared else "bert"]
    weights = ForeignWeights(path, tensors, lambda tensor: place_name(tensor, family))
    notes = (FOLDED, "segment embeddings: row 0, which UER-py gives to padding, is dropped; rows 1 and 2 are kept")
    return Opened(f"UER-py .bin ({'ALBERT' if shared else 'BERT'})", [weights], UER, notes)


def place_name(tensor: ForeignTensor, family: Family) -> Place | Ignored | None:
    """`encoder.transformer.0.feed_forward.linear_1.bias` -> `bert.encoder.layer.0.intermediate.dense.bias`."""
    name = tensor.name
    for pattern, replacement in _OTHER_NAMES:
        name = re.sub(pattern, replacement, name)
    module, _, leaf = name.rpartition(".")
    leaves = _NORM_LEAVES if "layer_norm" in module else _LEAVES
    if leaf not in leaves:
        return None
    if module == "target.sp_linear_2":
        return Ignored("the next-sentence or sentence-order head; no output uses it")
    if module == "target.mlm_linear_2" and leaf == "bias":
        return Place(family.masked_lm_names.decoder_bias)
    target = _place_module(module, family)
    if target is None:
        return None
    size = tensor.shape[0] if tensor.shape else 0
    scale = math.sqrt((size - 1) / size) if leaf == "gamma" and size > 1 else 1.0
    skip = 1 if module == "embedding.segment_embedding" else 0
    return Place(f"{target}.{leaves[leaf]}", skip_rows=skip, scale=scale)


def _place_module(module: str, family: Family) -> str | None:
    """The family's name for a module; None where it has no such part."""
    if module in _ROLES:
        name: str | None = attrgetter(_ROLES[module])(family)
        return name
    match = _LAYER.fullmatch(module)
    # Layers are numbered in UER-py exactly where they are not shared.
    if match is None or match[2] not in _LAYER_ROLES or (match[1] is not None) != ("{block}" in family.layer):
        return None
    return (
        f"{family.layer.format(block=match[1], group=0, inner=0)}.{getattr(family.layer_names, _LAYER_ROLES[match[2]])}"
    )


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
    family = FAMILIES[model_type]
    config = {ours: raw[theirs] for theirs, ours in _SIZES.items() if theirs in raw}
    if not shared:
        config.pop("embedding_size", None)
    return {
        "model_type": model_type,
        **config,
        "vocab_size": _rows(weights, family.word_embeddings),
        "max_position_embeddings": _rows(weights, family.position_embeddings),
        "type_vocab_size": _rows(weights, family.token_type_embeddings),
        "hidden_act": raw["hidden_act"],
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": _is_tied(weights, family),
    }


def _rows(weights: ForeignWeights, table: str | None) -> int | None:
    entry = weights.entries.get(f"{table}.weight")
    return entry.shape[0] if entry and entry.shape else None


def _is_tied(weights: ForeignWeights, family: Family) -> bool:
    """Whether the decoder repeats the embeddings, as it does after training with `--tie_weights`."""
    decoder, embeddings = f"{family.masked_lm_names.untied_decoder}.weight", f"{family.word_embeddings}.weight"
    if not weights.entries.keys() >= {decoder, embeddings}:
        return True
    return np.array_equal(weights.array(decoder), weights.array(embeddings))
