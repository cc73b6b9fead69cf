"""UER-py as a test sees it: its state dictionary from a canonical checkpoint's tensors, and its forward in float64.

Written from dbiir/UER-py's layers (layer_norm.py, transformer.py, multi_headed_attn.py, position_ffn.py) and
targets (mlm_target.py, sp_target.py), not from the importer: the names here are spelled out once more on purpose.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, softmax

Array = NDArray[np.float64]
State = Mapping[str, NDArray]

_LAYER = {
    "self_attn.linear_layers.0.weight": ("attention.self.query.weight", "attention.query.weight"),
    "self_attn.linear_layers.0.bias": ("attention.self.query.bias", "attention.query.bias"),
    "self_attn.linear_layers.1.weight": ("attention.self.key.weight", "attention.key.weight"),
    "self_attn.linear_layers.1.bias": ("attention.self.key.bias", "attention.key.bias"),
    "self_attn.linear_layers.2.weight": ("attention.self.value.weight", "attention.value.weight"),
    "self_attn.linear_layers.2.bias": ("attention.self.value.bias", "attention.value.bias"),
    "self_attn.final_linear.weight": ("attention.output.dense.weight", "attention.dense.weight"),
    "self_attn.final_linear.bias": ("attention.output.dense.bias", "attention.dense.bias"),
    "layer_norm_1.gamma": ("attention.output.LayerNorm.weight", "attention.LayerNorm.weight"),
    "layer_norm_1.beta": ("attention.output.LayerNorm.bias", "attention.LayerNorm.bias"),
    "feed_forward.linear_1.weight": ("intermediate.dense.weight", "ffn.weight"),
    "feed_forward.linear_1.bias": ("intermediate.dense.bias", "ffn.bias"),
    "feed_forward.linear_2.weight": ("output.dense.weight", "ffn_output.weight"),
    "feed_forward.linear_2.bias": ("output.dense.bias", "ffn_output.bias"),
    "layer_norm_2.gamma": ("output.LayerNorm.weight", "full_layer_layer_norm.weight"),
    "layer_norm_2.beta": ("output.LayerNorm.bias", "full_layer_layer_norm.bias"),
}
_REST = {
    "embedding.word_embedding.weight": ("bert.embeddings.word_embeddings.weight",) * 2,
    "embedding.position_embedding.weight": ("bert.embeddings.position_embeddings.weight",) * 2,
    "embedding.layer_norm.gamma": ("bert.embeddings.LayerNorm.weight",) * 2,
    "embedding.layer_norm.beta": ("bert.embeddings.LayerNorm.bias",) * 2,
    "encoder.linear.weight": (None, "bert.encoder.embedding_hidden_mapping_in.weight"),
    "encoder.linear.bias": (None, "bert.encoder.embedding_hidden_mapping_in.bias"),
    "target.sp_linear_1.weight": ("bert.pooler.dense.weight", "bert.pooler.weight"),
    "target.sp_linear_1.bias": ("bert.pooler.dense.bias", "bert.pooler.bias"),
    "target.mlm_linear_1.weight": ("cls.predictions.transform.dense.weight", "predictions.dense.weight"),
    "target.mlm_linear_1.bias": ("cls.predictions.transform.dense.bias", "predictions.dense.bias"),
    "target.layer_norm.gamma": ("cls.predictions.transform.LayerNorm.weight", "predictions.LayerNorm.weight"),
    "target.layer_norm.beta": ("cls.predictions.transform.LayerNorm.bias", "predictions.LayerNorm.bias"),
    "target.mlm_linear_2.bias": ("cls.predictions.bias", "predictions.bias"),
}
TENCENT_NAMES = {
    "embedding.word_embedding.": "embedding.word.embedding.",
    "embedding.position_embedding.": "embedding.pos.embedding.",
    "embedding.segment_embedding.": "embedding.seg.embedding.",
    "target.mlm_linear_": "target.mlm.linear_",
    "target.layer_norm.": "target.mlm.layer_norm.",
    "target.sp_linear_": "target.sp.linear_",
}


def uer_state(tensors: State, config: Mapping[str, Any], untied: bool = False) -> dict[str, NDArray]:
    """The same numbers under UER-py's names, as if they had been trained there.

    untied: a decoder of its own, as after training without `--tie_weights`.
    """
    albert = config["model_type"] == "albert"
    tensors = {
        f"bert.{name.removeprefix('albert.')}" if name.startswith("albert.") else name: array
        for name, array in tensors.items()
    }
    state = {theirs: tensors[names[albert]] for theirs, names in _REST.items() if names[albert]}
    for index in range(1 if albert else config["num_hidden_layers"]):
        ours = "bert.encoder.albert_layer_groups.0.albert_layers.0." if albert else f"bert.encoder.layer.{index}."
        theirs = "encoder.transformer." if albert else f"encoder.transformer.{index}."
        state |= {theirs + name: tensors[ours + names[albert]] for name, names in _LAYER.items()}
    segments = tensors["bert.embeddings.token_type_embeddings.weight"]
    state["embedding.segment_embedding.weight"] = np.concatenate([segments.mean(0, keepdims=True) + 1, segments])
    words = state["embedding.word_embedding.weight"]
    state["target.mlm_linear_2.weight"] = words[::-1].copy() if untied else words
    hidden = config["hidden_size"]
    state["target.sp_linear_2.weight"] = np.ones((2, hidden), np.float32)
    state["target.sp_linear_2.bias"] = np.zeros(2, np.float32)
    return state


def tencent_state(state: State) -> dict[str, NDArray]:
    """A UER-py state under TencentPretrain's names."""
    renamed = {}
    for name, array in state.items():
        for old, new in TENCENT_NAMES.items():
            name = name.replace(old, new)
        renamed[name] = array
    return renamed


def uer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same shape as UER-py's `models/*/config.json` says it."""
    shared = config["model_type"] == "albert"
    return {
        "emb_size": config["embedding_size"] if shared else config["hidden_size"],
        "feedforward_size": config["intermediate_size"],
        "hidden_size": config["hidden_size"],
        "hidden_act": config["hidden_act"],
        "heads_num": config["num_attention_heads"],
        "layers_num": config["num_hidden_layers"],
        "max_seq_length": config["max_position_embeddings"],
        "dropout": 0.1,
        "data_processor": "bert",
        "embedding": ["word", "pos", "seg"],
        "encoder": "transformer",
        "mask": "fully_visible",
        "target": ["mlm", "sp"],
        **({"factorized_embedding_parameterization": True, "parameter_sharing": True} if shared else {}),
    }


def uer_forward(state: State, config: Mapping[str, Any], ids: NDArray, segments: NDArray) -> dict[str, Array]:
    """`hidden` [B, T, H], `pooled` [B, H] and `logits` [B, T, V] in float64, from a UER-py state and config.

    segments: 1 and 2 for the two sentences, 0 for padding, which is how UER-py masks.
    """
    p = {name: array.astype(np.float64) for name, array in state.items()}
    act = {"gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))), "relu": lambda x: np.maximum(x, 0)}[
        config["hidden_act"]
    ]

    def norm(name: str, x: Array) -> Array:
        mean, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
        return p[f"{name}.gamma"] * (x - mean) / (std + 1e-6) + p[f"{name}.beta"]

    def linear(name: str, x: Array) -> Array:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    x = p["embedding.word_embedding.weight"][ids] + p["embedding.position_embedding.weight"][: ids.shape[1]]
    x = norm("embedding.layer_norm", x + p["embedding.segment_embedding.weight"][segments])
    if config.get("factorized_embedding_parameterization"):
        x = linear("encoder.linear", x)
    mask = (1.0 - (segments > 0)[:, None, None, :]) * -10000.0
    for index in range(config["layers_num"]):
        layer = "encoder.transformer" + ("" if config.get("parameter_sharing") else f".{index}")
        heads = (*ids.shape, config["heads_num"], -1)
        query, key, value = (
            linear(f"{layer}.self_attn.linear_layers.{n}", x).reshape(heads).swapaxes(1, 2) for n in range(3)
        )
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1]) + mask
        context = (softmax(scores, -1) @ value).swapaxes(1, 2).reshape(x.shape)
        x = norm(f"{layer}.layer_norm_1", linear(f"{layer}.self_attn.final_linear", context) + x)
        inner = act(linear(f"{layer}.feed_forward.linear_1", x))
        x = norm(f"{layer}.layer_norm_2", linear(f"{layer}.feed_forward.linear_2", inner) + x)
    y = norm("target.layer_norm", act(linear("target.mlm_linear_1", x)))
    return {
        "hidden": x,
        "pooled": np.tanh(linear("target.sp_linear_1", x[:, 0])),
        "logits": linear("target.mlm_linear_2", y),
    }
