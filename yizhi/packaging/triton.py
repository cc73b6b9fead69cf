"""Triton's model repository: a folder per model with `config.pbtxt`, a version folder, and warm-up inputs.

Triton's documentation: `docs/user_guide/model_repository.md` and `model_configuration.md` of
https://github.com/triton-inference-server/server; the schema is `protobuf/model_config.proto` of its `common`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yizhi.converters.onnx_files import WEIGHT_FILE, graph_file
from yizhi.model.spec import COLUMNS
from yizhi.packaging.order import Order
from yizhi.release.artifact import Artifact
from yizhi.runtimes.base import Inputs

REPOSITORY = "models"
START = f"tritonserver --model-repository={{package}}/{REPOSITORY}"
MAX_BATCH_SIZE = 32
_QUEUE_DELAY_MICROSECONDS = 1000
# What the graphs declare (converters/forwards/onnx.py): ids are int64, all outputs float32.
_INPUT_TYPE, _OUTPUT_TYPE = "TYPE_INT64", "TYPE_FP32"


def write(folder: Path, order: Order) -> list[dict[str, Any]]:
    """A model per artifact and signature: NAME-TARGET, or NAME-TARGET-SIGNATURE for all but `serving_default`.

    ONNX Runtime computes all outputs of a graph, requested or not. So each signature is a model. Its weights stand next
    to its graph, because ONNX Runtime refuses external data outside the graph's folder.
    """
    models = []
    samples, version = order.samples(), order.version
    for artifact in order.artifacts:
        for signature in order.signatures:
            model = "-".join([order.name, artifact.target, *([signature] if signature != "serving_default" else [])])
            place = folder / REPOSITORY / model
            (place / str(version)).mkdir(parents=True)
            copied = {f"{version}/model.onnx": graph_file(signature), f"{version}/{WEIGHT_FILE}": WEIGHT_FILE}
            for to, source in copied.items():
                shutil.copyfile(artifact.folder / source, place / to)
            _write_samples(place / "warmup", samples)
            (place / "config.pbtxt").write_text(render_config(model, artifact, signature, samples), encoding="utf-8")
            models.append(
                {
                    "name": model,
                    "target": artifact.target,
                    "signatures": [signature],
                    "copied": {f"{REPOSITORY}/{model}/{to}": source for to, source in copied.items()},
                }
            )
    return models


def render_config(model: str, artifact: Artifact, signature: str, samples: Mapping[str, Inputs]) -> str:
    """`config.pbtxt`, in protobuf's text format. Axes leave out the batch, which Triton adds itself."""
    inputs, described = artifact.description["inputs"], artifact.description["outputs"]
    outputs = {name: described[name] for name in artifact.signatures[signature]}
    if signature == "serving_default":
        outputs |= dict.fromkeys(artifact.description.get(COLUMNS, ()), described.get("logits", [])[:-1])
    lines = [
        f"name: {json.dumps(model)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH_SIZE}",
        *(_tensor("input", name, _INPUT_TYPE, axes) for name, axes in inputs.items()),
        *(_tensor("output", name, _OUTPUT_TYPE, axes) for name, axes in outputs.items()),
        f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_DELAY_MICROSECONDS} }}",
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
    ]
    for case, sample in samples.items():
        lines += ["model_warmup {", f"  name: {json.dumps(case)}", "  batch_size: 1"]
        for name, array in sample.as_dict().items():
            value = f'data_type: {_INPUT_TYPE} dims: [ {array.shape[1]} ] input_data_file: "{_sample_file(case, name)}"'
            lines.append(f'  inputs {{ key: "{name}" value {{ {value} }} }}')
        lines.append("}")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, dtype: str, axes: Sequence[str | int]) -> str:
    sizes = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in axes[1:])
    return f"{kind} {{ name: {json.dumps(name)} data_type: {dtype} dims: [ {sizes} ] }}"


def _write_samples(folder: Path, samples: Mapping[str, Inputs]) -> None:
    """Each input of each case as raw little-endian int64, [length]."""
    folder.mkdir()
    for case, sample in samples.items():
        for name, array in sample.as_dict().items():
            (folder / _sample_file(case, name)).write_bytes(array.astype(np.dtype("<i8")).tobytes())


def _sample_file(case: str, name: str) -> str:
    return f"{case}.{name}"
