"""`yizhi package`: what the servers' own schemas accept, and what the packaged models answer."""

import ast
import json
import re
import runpy
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jsonschema
import numpy as np
import pytest

from tests.checkpoints import write_variant
from tests.kills import run_killed
from tests.protos import WheelProtos, download_wheel
from tests.schemas import schema_registry
from tests.serving.running import run_models
from yizhi.cli import main
from yizhi.packaging.clients import README
from yizhi.packaging.package import PACKAGE
from yizhi.parity.golden import Golden
from yizhi.release.schema import load_schema
from yizhi.runtimes import open_runtime
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.digests import describe_folder

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow

TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}


def export(folder, variant, *targets):
    checkpoint = write_variant(folder / f"{variant}-checkpoint", variant)
    arguments = [argument for target in targets for argument in ("--target", target)]
    assert main(["export", str(checkpoint), "--out", str(folder / variant), *arguments]) == 0
    return folder / variant


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return export(tmp_path_factory.mktemp("release"), "bert", "onnx", "onnx-int8")


@pytest.fixture(scope="module")
def triton(release, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "package"
    arguments = ["--signature", "serving_default", "--signature", "features", "--model-version", "3"]
    assert main(["package", str(release), "--for", "triton", "--out", str(folder), *arguments]) == 0
    return folder


def assert_sealed(folder):
    """package.json lists every file, with its digest."""
    described = json.loads((folder / PACKAGE).read_text())
    jsonschema.validate(described, load_schema("package.v1"), registry=schema_registry())
    found = describe_folder(folder)
    found.pop(PACKAGE)
    assert found == described["files"]


# --- Triton


@pytest.fixture(scope="module")
def triton_config(tmp_path_factory):
    wheel = download_wheel("tritonclient==2.73.0", tmp_path_factory.mktemp("tritonclient"))
    return WheelProtos(wheel).message("model_config.proto", "inference.ModelConfig")


@pytest.mark.parametrize("model", ["bert-onnx", "bert-onnx-features", "bert-onnx-int8", "bert-onnx-int8-features"])
def test_triton_config_is_what_its_schema_and_the_graph_say(triton, triton_config, model):
    from google.protobuf import text_format

    folder = triton / "models" / model
    config = text_format.Parse((folder / "config.pbtxt").read_text(), triton_config())
    assert (config.name, config.backend, config.max_batch_size) == (model, "onnxruntime", 32)
    assert config.HasField("dynamic_batching")
    kinds = config.instance_group[0].DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number
    assert kinds[config.instance_group[0].kind].name == "KIND_CPU"
    types = config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    session = onnxruntime.InferenceSession(folder / "3" / "model.onnx")
    for declared, inside in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        found = {tensor.name: (types[tensor.data_type].name, list(tensor.dims)) for tensor in declared}
        shapes = {tensor.name: [size if isinstance(size, int) else -1 for size in tensor.shape] for tensor in inside}
        assert found == {tensor.name: (TYPES[tensor.type], shapes[tensor.name][1:]) for tensor in inside}
        assert all(shape[0] == -1 for shape in shapes.values())  # what max_batch_size > 0 needs


@pytest.mark.parametrize("model", ["bert-onnx", "bert-onnx-int8"])
def test_triton_warm_up_is_golden_and_runs(release, triton, triton_config, model):
    from google.protobuf import text_format

    folder = triton / "models" / model
    golden = Golden.read(release / "golden")
    cases = {case.name: case for case in golden.cases}
    config = text_format.Parse((folder / "config.pbtxt").read_text(), triton_config())
    session = onnxruntime.InferenceSession(folder / "3" / "model.onnx")
    assert {"length-1", "longest"} <= {sample.name for sample in config.model_warmup}
    for sample in config.model_warmup:
        fed = {}
        for name, tensor in sample.inputs.items():
            data = (folder / "warmup" / tensor.input_data_file).read_bytes()
            fed[name] = np.frombuffer(data, "<i8").reshape(sample.batch_size, *tensor.dims)
            np.testing.assert_array_equal(fed[name], getattr(cases[sample.name].inputs, name))
        (found,) = session.run(["last_hidden_state"], fed)
        reference = golden.reference[sample.name]["last_hidden_state"]
        np.testing.assert_allclose(found, reference, atol=1e-4 if model == "bert-onnx" else 0.3)


def test_triton_repository_holds_nothing_but_models(triton):
    assert_sealed(triton)
    assert all((model / "config.pbtxt").is_file() for model in (triton / "models").iterdir())
    assert (triton / "tokenizer" / "vocab.txt").is_file()


@pytest.mark.parametrize("variant", ["electra-discriminator", "bert-classifier", "bert-reader"])
def test_triton_config_of_other_heads(tmp_path, triton_config, variant):
    from google.protobuf import text_format

    release = export(tmp_path, variant, "onnx")
    assert main(["package", str(release), "--for", "triton", "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "models" / f"{variant}-onnx"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), triton_config())
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    shapes = {
        tensor.name: [s if isinstance(s, int) else -1 for s in tensor.shape][1:] for tensor in session.get_outputs()
    }
    assert {tensor.name: list(tensor.dims) for tensor in config.output} == shapes


def run_client(package, address, place, capsys):
    """Run the Python of a package's README in its folder, asking this address; returns what it prints."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", (package / README).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 11
    told = re.sub(r"localhost:\d+", address.removeprefix("http://"), code)
    assert told != code
    (place / "client.py").write_text(told, encoding="utf-8")
    capsys.readouterr()
    runpy.run_path(str(place / "client.py"))
    return capsys.readouterr().out


def test_the_readme_asks_a_server_of_triton_s_protocol(release, triton, tmp_path, monkeypatch, capsys):
    """`yizhi serve` speaks the same protocol; Triton itself is not at hand."""
    monkeypatch.chdir(triton)
    text = Tokenizer.open(release / "onnx").encode(["北京是中国的首都。"])
    with open_runtime(release / "onnx") as runtime, run_models({"bert-onnx": runtime}) as address:
        found = ast.literal_eval(run_client(triton, address, tmp_path, capsys))
        expected = runtime.run(text.inputs, runtime.signatures["serving_default"])
    assert found == {name: list(array.shape) for name, array in expected.items()}


# --- TensorFlow Serving


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    pytest.importorskip("tensorflow")
    return export(tmp_path_factory.mktemp("tf"), "bert", "tensorflow")


@pytest.fixture(scope="module")
def served(saved_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "package"
    assert main(["package", str(saved_model), "--for", "tf-serving", "--out", str(folder), "--name", "zh"]) == 0
    return folder


@pytest.fixture(scope="module")
def serving_protos(tmp_path_factory):
    pytest.importorskip("tensorflow")
    return WheelProtos(download_wheel("tensorflow-serving-api==2.21.0", tmp_path_factory.mktemp("serving")))


def test_warm_up_records_are_prediction_logs_that_the_model_answers(saved_model, served, serving_protos):
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    log_type = serving_protos.message(
        "tensorflow_serving/apis/prediction_log.proto", "tensorflow.serving.PredictionLog"
    )
    model = tf.saved_model.load(str(served / "models" / "zh" / "1"))
    golden = Golden.read(saved_model / "golden")
    single = {case.inputs.input_ids.tobytes(): case.name for case in golden.cases if len(case.inputs.input_ids) == 1}
    records = tf.data.TFRecordDataset(str(served / "models/zh/1/assets.extra/tf_serving_warmup_requests"))
    seen = set()
    for record in records.as_numpy_iterator():
        log = log_type.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "zh"
        inputs = {
            key: tf.make_ndarray(TensorProto.FromString(value.SerializeToString()))
            for key, value in request.inputs.items()
        }
        assert {array.dtype for array in inputs.values()} == {np.dtype(np.int32)}
        name = single[inputs["input_ids"].astype(np.int64).tobytes()]
        found = model.signatures[request.model_spec.signature_name](**{k: tf.constant(v) for k, v in inputs.items()})
        reference = golden.reference[name]["last_hidden_state"]
        np.testing.assert_allclose(found["last_hidden_state"].numpy(), reference, atol=1e-4)
        seen.add((request.model_spec.signature_name, name))
    assert seen == {(s, n) for s in ("serving_default", "features", "hidden_states") for n in single.values()}
    assert len(seen) <= 1000  # the server's limit


def test_models_config_is_what_its_schema_says(served, serving_protos):
    from google.protobuf import text_format

    config_type = serving_protos.message(
        "tensorflow_serving/config/model_server_config.proto", "tensorflow.serving.ModelServerConfig"
    )
    config = text_format.Parse((served / "models.config").read_text(), config_type())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("zh", "/models/zh", "tensorflow")


def test_batching_parameters_do_not_pad(served):
    """The message is in no wheel: its fields are those of TensorFlow Serving's session_bundle_config.proto."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

    file = descriptor_pb2.FileDescriptorProto(name="b.proto", package="t", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    for number, name in enumerate(("max_batch_size", "batch_timeout_micros", "max_enqueued_batches"), 1):
        message.field.add(name=name, number=number, type=11, label=1, type_name=".google.protobuf.Int64Value")
    message.field.add(name="pad_variable_length_inputs", number=7, type=8, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    parameters = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.BatchingParameters"))()
    text_format.Parse((served / "batching.config").read_text(), parameters)
    assert parameters.max_batch_size.value == 32
    # The server pads with a tensor's first value, and attention_mask begins with 1.
    assert not parameters.pad_variable_length_inputs


def test_saved_model_is_copied_as_it_was_released(saved_model, served):
    assert_sealed(served)
    copied = describe_folder(served / "models" / "zh" / "1")
    released = describe_folder(saved_model / "tensorflow")
    assert {"saved_model.pb", "variables/variables.index"} <= copied.keys()
    copied.pop("assets.extra/tf_serving_warmup_requests")
    assert copied == {name: entry for name, entry in released.items() if name in copied}


@contextmanager
def serve_saved_model(folder, name):
    """The address of what answers `:predict` of TensorFlow Serving's REST API, by this SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))  # kept: a signature alone does not hold its variables
    signature = loaded.signatures["serving_default"]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            found = signature(**{key: tf.constant(value, tf.int32) for key, value in inputs.items()})
            body = json.dumps({"outputs": {key: value.numpy().tolist() for key, value in found.items()}}).encode()
            self.send_response(200 if self.path == f"/v1/models/{name}:predict" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_readme_asks_a_server_of_tensorflow_s_rest_api(served, tmp_path, monkeypatch, capsys):
    """The form of requests is that of TensorFlow Serving's documentation; the server itself is not at hand."""
    monkeypatch.chdir(served)
    with serve_saved_model(served / "models" / "zh" / "1", "zh") as address:
        printed = run_client(served, address, tmp_path, capsys)
    assert re.match(r"""b'\{"outputs": \{"\w+": \[\[\[?-?\d""", printed)


def test_a_second_package_into_one_folder_says_that_it_replaces_the_first(release, tmp_path, capsys):
    command = ["package", str(release), "--for", "triton", "--target", "onnx", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "in place of" not in capsys.readouterr().out
    assert main(command) == 0
    assert "in place of the package that was there" in capsys.readouterr().out
    assert_sealed(tmp_path / "out")


# --- what is refused


def test_an_altered_release_is_not_packaged(release, tmp_path, capsys):
    altered = shutil.copytree(release, tmp_path / "altered")
    data = bytearray((altered / "onnx" / "model.onnx.data").read_bytes())
    data[5000] ^= 1
    (altered / "onnx" / "model.onnx.data").write_bytes(data)
    assert main(["package", str(altered), "--for", "triton", "--out", str(tmp_path / "out")]) == 1
    assert "onnx/model.onnx.data: expected sha256" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--for", "tf-serving"], "has no tensorflow"),
        (["--for", "triton", "--target", "pytorch"], "triton runs onnx, onnx-int8; found pytorch"),
        (["--for", "triton", "--signature", "logits"], "expected features, hidden_states, serving_default; found"),
        (["--for", "triton", "--name", "../up"], "--name: expected letters"),
    ],
)
def test_what_cannot_be_packaged_is_one_error(release, tmp_path, capsys, arguments, says):
    assert main(["package", str(release), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_a_package_is_left_alone(release, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    assert main(["package", str(release), "--for", "triton", "--out", str(tmp_path / "mine")]) == 2
    assert "not ours to replace" in capsys.readouterr().err
    assert main(["package", str(release), "--for", "triton", "--out", str(release / "serve")]) == 2
    assert "outside the release" in capsys.readouterr().err
    assert main(["verify", str(release)]) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_kill_leaves_the_old_package_a_new_one_or_none(release, tmp_path):
    folder = tmp_path / "package"
    killed = 0
    for ended in run_killed(["package", str(release), "--for", "triton", "--out", str(folder)], 12):
        killed += not ended
        if folder.exists():
            assert_sealed(folder)
    assert killed  # how many depends on how busy the machine is
    assert main(["package", str(release), "--for", "triton", "--out", str(folder)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["package"]  # what the kills left is removed
