"""What makes a checkpoint's folder one of sentence-transformers': modules.json and the files that it names."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yizhi.reading.safetensors_file import write_safetensors

HIDDEN = 32
# Small checkpoints whose folders say how a text's vector is made; arguments of `tests.checkpoints.write_checkpoint`.
SENTENCE_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "bert-last": {"task": "features", "sentence": {"mode": "lasttoken"}},
    "bert-dimensions": {"task": "features", "sentence": {"mode": "mean", "dimensions": 12, "normalize": True}},
    "bert-dense": {
        "task": "features",
        "sentence": {
            "mode": "mean",
            "dense": ((24, "Tanh", True), (20, "Identity", False)),
            "dimensions": 12,
            "normalize": True,
        },
    },
    "albert-dense": {"model_type": "albert", "sentence": {"mode": "lasttoken", "dense": ((32, "GELU", True),)}},
    # With these seeds, some weights of tokens are 0 and others are not.
    "bert-m3": {"task": "features", "token_heads": True, "seed": 7, "sentence": {"mode": "cls", "normalize": True}},
    "albert-m3": {
        "model_type": "albert",
        "task": "features",
        "token_heads": True,
        "config": {"colbert_dim": 12},
        "seed": 1,
        "sentence": {"mode": "cls", "normalize": True},
    },
    "xlm-roberta-m3": {
        **{"model_type": "xlm-roberta", "task": "features", "pooler": False, "token_heads": True, "seed": 2},
        "sentence": {"mode": "cls", "normalize": True},
    },
    "qwen3-last": {
        **{"model_type": "qwen3", "task": "features"},
        "sentence": {"mode": "lasttoken", "normalize": True},
    },
    "bert-splade": {"sentence": {"mode": "splade"}},
}


def write_modules(
    folder: Path,
    mode: str,
    dense: Sequence[tuple[int, str, bool]] = (),
    dimensions: int | None = None,
    normalize: bool = False,
    hidden: int = HIDDEN,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """Write them into a folder, as sentence-transformers 5 does, and return it.

    dense: of each Dense module its outputs, its activation's class and whether it has a bias. dimensions: a last Dense
    that keeps the first so many numbers. hidden: the encoder's width. prompts: by name.
    """
    kinds = ["Transformer", "SpladePooling" if mode == "splade" else "Pooling"]
    configs: list[dict[str, Any]] = [{}, {"pooling_mode": mode, "embedding_dimension": hidden}]
    weights: list[dict[str, np.ndarray]] = [{}, {}]
    if mode == "splade":
        configs[1] = {"pooling_strategy": "max", "activation_function": "relu"}
    rng, inputs = np.random.default_rng(7), hidden
    for outputs, activation, biased in dense:
        kinds.append("Dense")
        name = f"torch.nn.modules.{'linear' if activation == 'Identity' else 'activation'}.{activation}"
        configs.append(_config(inputs, outputs, biased, name))
        tensors = {"linear.weight": rng.normal(0.01, inputs**-0.5, (outputs, inputs))}
        if biased:
            tensors["linear.bias"] = rng.normal(0.1, 0.2, outputs)
        weights.append(tensors)
        inputs = outputs
    if dimensions:
        kinds.append("Dense")
        configs.append(_config(inputs, dimensions, False, "torch.nn.modules.linear.Identity"))
        weights.append({"linear.weight": np.eye(dimensions, inputs)})
    if normalize:
        kinds, configs, weights = [*kinds, "Normalize"], [*configs, {}], [*weights, {}]
    modules = []
    for index, (kind, config, tensors) in enumerate(zip(kinds, configs, weights, strict=True)):
        path = f"{index}_{kind}" if index else ""
        modules.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(exist_ok=True)
        if config:
            (folder / path / "config.json").write_text(json.dumps(config))
        if tensors:
            stored = {name: array.astype(np.float32) for name, array in tensors.items()}
            with open(folder / path / "model.safetensors", "wb") as file:
                entries = {name: ("F32", array.shape) for name, array in stored.items()}
                write_safetensors(file, entries, (array.tobytes() for array in stored.values()))
    (folder / "modules.json").write_text(json.dumps(modules))
    if prompts:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return folder


def _config(inputs: int, outputs: int, biased: bool, activation: str) -> dict[str, Any]:
    return {"in_features": inputs, "out_features": outputs, "bias": biased, "activation_function": activation}
