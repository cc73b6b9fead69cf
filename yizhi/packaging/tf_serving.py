"""TensorFlow Serving's layout: NAME/VERSION/ with the SavedModel and its warm-up records, and two configuration files.

The warm-up file is a TFRecord of PredictionLog messages (https://www.tensorflow.org/tfx/serving/saved_model_warmup).
tensorflow-serving-api has those messages and holds TensorFlow back, so the four that are needed are declared here.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yizhi.converters.targets import TARGETS
from yizhi.packaging.order import Order
from yizhi.release.artifact import Artifact
from yizhi.runtimes.base import Inputs

if TYPE_CHECKING:
    from google.protobuf.message import Message

MODELS = "models"
WARMUP = "assets.extra/tf_serving_warmup_requests"
START = (
    "tensorflow_model_server --port=8500 --rest_api_port=8501 --model_name={name} "
    f"--model_base_path=$(realpath {{package}})/{MODELS}/{{name}}"
)
_SAVED_MODEL = ("saved_model.pb", "fingerprint.pb", "variables/", "assets/")
_PACKAGE = "tensorflow.serving"


def write(folder: Path, order: Order) -> list[dict[str, Any]]:
    """One model, with every signature of the SavedModel. Each signature is warmed up with each sample.

    Raises MissingFramework if TensorFlow is not installed.
    """
    TARGETS["tensorflow"].load_runtime()
    (artifact,) = order.artifacts
    name = order.name
    base = f"{MODELS}/{name}/{order.version}"
    copied = {f"{base}/{file}": file for file in artifact.description["files"] if file.startswith(_SAVED_MODEL)}
    for to, source in copied.items():
        (folder / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.folder / source, folder / to)
    _write_records(folder / base / WARMUP, _requests(name, artifact, order.samples()))
    (folder / "models.config").write_text(_MODELS_CONFIG.format(name=json.dumps(name), folder=MODELS, raw=name))
    (folder / "batching.config").write_text(_BATCHING)
    return [{"name": name, "target": artifact.target, "signatures": list(artifact.signatures), "copied": copied}]


# The server refuses a relative base_path; /models is where its image looks.
_MODELS_CONFIG = """\
# For --model_config_file, with this package's {folder}/ mounted at /{folder}.
model_config_list {{
  config {{
    name: {name}
    base_path: "/{folder}/{raw}"
    model_platform: "tensorflow"
  }}
}}
"""

_BATCHING = """\
# For --enable_batching --batching_parameters_file. Only where clients pad every request to one length: the
# server's own padding repeats a tensor's first value, so that attention_mask would be 1 on it.
max_batch_size { value: 32 }
batch_timeout_micros { value: 1000 }
pad_variable_length_inputs: false
"""


def _requests(name: str, artifact: Artifact, samples: Mapping[str, Inputs]) -> "Iterator[Message]":
    """A PredictionLog per signature and sample: int32 [1, length], as the SavedModel takes them."""
    from yizhi.converters.lean_tensorflow import tf

    log_type = _prediction_log()
    for signature in artifact.signatures:
        for sample in samples.values():
            log = log_type()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, array in sample.as_dict(np.int32).items():
                request.inputs[key].ParseFromString(tf.make_tensor_proto(array).SerializeToString())
            yield log


def _write_records(path: Path, records: "Iterator[Message]") -> None:
    from yizhi.converters.lean_tensorflow import tf

    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record.SerializeToString(deterministic=True))


def _prediction_log() -> type:
    """The class of PredictionLog, with those fields of tensorflow_serving/apis/*.proto that are filled in here."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    file = descriptor_pb2.FileDescriptorProto(name="yizhi/prediction_log.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append("tensorflow/core/framework/tensor.proto")
    _message(file, "ModelSpec", {"name": (1, ""), "signature_name": (3, "")})
    request = _message(file, "PredictRequest", {"model_spec": (1, f".{_PACKAGE}.ModelSpec")})
    entry = request.nested_type.add(name="InputsEntry")
    entry.options.map_entry = True
    _field(entry, "key", 1, "")
    _field(entry, "value", 2, ".tensorflow.TensorProto")
    field = _field(request, "inputs", 2, f".{_PACKAGE}.PredictRequest.InputsEntry")
    field.label = field.LABEL_REPEATED
    _message(file, "PredictLog", {"request": (1, f".{_PACKAGE}.PredictRequest")})
    _message(file, "PredictionLog", {"predict_log": (6, f".{_PACKAGE}.PredictLog")})
    # In a pool of its own: tensorflow-serving-api, where it is installed, has these names in the default one.
    pool = descriptor_pool.DescriptorPool()
    _add_with_dependencies(pool, tensor_pb2.DESCRIPTOR)
    pool.Add(file)
    kind: type = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.PredictionLog"))
    return kind


def _add_with_dependencies(pool: Any, file: Any) -> None:
    for dependency in file.dependencies:
        _add_with_dependencies(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)


def _message(file: Any, name: str, fields: Mapping[str, tuple[int, str]]) -> Any:
    message = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
        _field(message, field, number, kind)
    return message


def _field(message: Any, name: str, number: int, kind: str) -> Any:
    """A string where no message type is given."""
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_OPTIONAL
    field.type = field.TYPE_MESSAGE if kind else field.TYPE_STRING
    if kind:
        field.type_name = kind
    return field
