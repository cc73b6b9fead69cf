"""Writing a canonical checkpoint's tensors as other projects publish them."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.reading.checkpoint import Checkpoint

Tensors = dict[str, NDArray]


def read_tensors(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Every parameter by canonical name, in order, and the configuration."""
    with Checkpoint.open(folder) as checkpoint:
        tensors = {parameter.name: np.array(checkpoint.array(parameter.name)) for parameter in checkpoint.parameters()}
        return tensors, dict(checkpoint.config.raw)


def assert_same_checkpoint(found: Path, expected: Path) -> None:
    """Equal tensors, bit for bit and in the same order, under the same configuration and vocabulary."""
    (one, config), (other, expected_config) = read_tensors(found), read_tensors(expected)
    assert list(one) == list(other)
    different = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    assert not different
    assert {key: config[key] for key in expected_config if key != "architectures"} == {
        key: value for key, value in expected_config.items() if key != "architectures"
    }
    assert (found / "vocab.txt").read_bytes() == (expected / "vocab.txt").read_bytes()


def copy_beside(
    checkpoint: Path, folder: Path, config: Mapping[str, Any] | None = None, name: str = "config.json"
) -> Path:
    """Put the vocabulary and a configuration (the checkpoint's, if none is given) into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_bytes((checkpoint / "vocab.txt").read_bytes())
    raw = json.loads((checkpoint / "config.json").read_text()) if config is None else config
    (folder / name).write_text(json.dumps(raw))
    return folder


def save_bin(path: Path, tensors: Tensors, **options: Any) -> None:
    """`torch.save` of a state dictionary."""
    import torch

    torch.save(
        {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}, path, **options
    )


def google_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What Google's `bert_config.json` and `albert_config.json` leave out is left out."""
    left_out = ("model_type", "layer_norm_eps", "pad_token_id", "architectures")
    return {key: value for key, value in config.items() if key not in left_out}


def google_name(name: str) -> str:
    """A canonical name as google-research/bert or /albert spells it; `T` in front where it is stored transposed."""
    replacements = {
        "albert.encoder.albert_layer_groups.": "bert/encoder/transformer/group_",
        ".albert_layers.": "/inner_group_",
        ".attention.query": "/attention_1/self/query",
        ".attention.key": "/attention_1/self/key",
        ".attention.value": "/attention_1/self/value",
        ".attention.dense": "/attention_1/output/dense",
        ".ffn.": "/ffn_1/intermediate/dense.",
        ".ffn_output.": "/ffn_1/intermediate/output/dense.",
        "albert.pooler": "bert/pooler/dense",
        "albert.": "bert.",
        "bert.encoder.layer.": "bert/encoder/layer_",
    }
    if "albert_layers" in name:
        name = name.replace(".attention.LayerNorm", "/LayerNorm").replace(".full_layer_layer_norm", "/LayerNorm_1")
    if name.startswith("predictions."):
        name = (
            f"cls.{name}"
            if name == "predictions.bias"
            else f"cls.predictions.transform.{name.removeprefix('predictions.')}"
        )
    for ours, theirs in replacements.items():
        name = name.replace(ours, theirs)
    name = name.replace(".", "/")
    if name.endswith("_embeddings/weight"):
        return name.removesuffix("/weight")
    if name == "cls/predictions/bias":
        return "cls/predictions/output_bias"
    module, leaf = name.rsplit("/", 1)
    if "LayerNorm" in module:
        return f"{module}/{ {'weight': 'gamma', 'bias': 'beta'}[leaf] }"
    return f"T{module}/kernel" if leaf == "weight" else name


def google_tensors(tensors: Tensors) -> Tensors:
    """Google's names, orientation and next-sentence head."""
    found = {}
    for name, array in tensors.items():
        theirs = google_name(name)
        found[theirs.removeprefix("T")] = array.T if theirs.startswith("T") else array
    hidden = found["bert/pooler/dense/bias"].size
    return {
        **found,
        "cls/seq_relationship/output_weights": np.ones((2, hidden), np.float32),
        "cls/seq_relationship/output_bias": np.zeros(2, np.float32),
    }


def save_tf1(prefix: Path, tensors: Tensors, shards: int = 1, slots: bool = True) -> None:
    """A checkpoint by TensorFlow's own Saver, with Adam's slots and `global_step` as training leaves them."""
    import tensorflow as tf

    v1 = tf.compat.v1
    values = dict(tensors)
    if slots:
        values |= {
            f"{name}/{slot}": np.zeros_like(array) for name, array in tensors.items() for slot in ("adam_m", "adam_v")
        }
        values["global_step"] = np.int64(1000)
    with tf.Graph().as_default():
        variables = []
        for number, (name, array) in enumerate(values.items()):
            with v1.device(f"/cpu:{number % shards}"):
                variables.append(v1.Variable(array, name=name, use_resource=False))
        config = v1.ConfigProto(device_count={"CPU": shards})
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(variables, sharded=shards > 1).save(session, str(prefix), write_meta_graph=False)


def make_zip(path: Path, folder: Path, top: str = "") -> Path:
    """A deflated zip of a folder's files, inside a folder `top` if one is named."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{top}/{file.name}" if top else file.name)
    return path


def save_h5(path: Path, tensors: Tensors, model: str, groups: Mapping[str, str]) -> None:
    """The layout that transformers' TensorFlow classes save: LAYER/MODEL/path:0, `_._` before a list's index.

    groups: the start of a canonical name -> the Keras layer that holds it.
    """
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in tensors.items():
            *modules, leaf = name.split(".")
            first = modules[0]
            layer = groups[first]
            is_norm = "norm" in modules[-1].lower()
            is_table = modules[-1].endswith("_embeddings")
            leaf = {"bias": "beta" if is_norm else "bias", "weight": "gamma" if is_norm else "kernel"}[leaf]
            if is_table:
                leaf = "weight" if modules[-1] == "word_embeddings" else "embeddings"
            parts = [layer]
            for part in modules[1:]:
                parts[-1:] = [f"{parts[-1]}_._{part}"] if part.isdigit() else [parts[-1], part]
            file[f"{layer}/{model}/{'/'.join(parts)}/{leaf}:0"] = array.T if leaf == "kernel" else array
