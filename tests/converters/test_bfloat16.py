"""`keep_bf16`: artifacts hold the checkpoint's bfloat16 tensors as they are, and compute in float32 from them."""

import numpy as np
import pytest

from tests.artifacts import export_artifact, slow
from yizhi.cli import main
from yizhi.converters.targets import KEEP_BF16, TARGETS
from yizhi.errors import InputError
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.parity.numbers import summarize
from yizhi.parity.weights import audit, digest_tensors
from yizhi.pipeline.precision import choose_float_options
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.runtimes import open_runtime

KEEPING = [slow(name) if name == "flax" else name for name, target in TARGETS.items() if target.keeps_bf16]
ABLE = [TARGETS[name] for name in ("pytorch", "flax", "onnx")]


def stored(folder, target):
    """The type and numbers of each tensor in an artifact."""
    places = TARGETS[target].stored_tensors(folder)
    return {place.name: place.dtype for place in places}, {place.name: place.array() for place in places}


@pytest.mark.parametrize("variant", ["bert-bf16", "qwen2-bf16", "bert-mixed"])
@pytest.mark.parametrize("target", KEEPING)
def test_it_computes_what_the_float32_artifact_computes_in_half_the_bytes(make_checkpoint, tmp_path, variant, target):
    with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
        golden = Golden.make(checkpoint)
        half = export_artifact(checkpoint, target, tmp_path / "bf16" / target, **{KEEP_BF16: True})
        whole = export_artifact(checkpoint, target, tmp_path / "fp32" / target)
        dtypes, arrays = stored(half, target)
        assert dtypes == {one.name: checkpoint.dtype_of(one.name, True) for one in checkpoint.parameters()}
        assert ("F32" in dtypes.values()) == (variant == "bert-mixed")
        assert all(np.array_equal(array, checkpoint.array(name)) for name, array in arrays.items())
    sizes = [
        sum(
            place.spans[0][1] for place in {place.name: place for place in TARGETS[target].stored_tensors(one)}.values()
        )
        for one in (half, whole)
    ]
    assert sizes[0] < 0.55 * sizes[1]
    with open_runtime(half) as runtime, open_runtime(whole) as other:
        verdict = verify(runtime, golden, "fp32")
        assert verdict.passed, verdict.faults
        inputs = golden.cases[0].inputs
        for name, array in runtime.run(inputs).items():  # sums may have another order where the weights lie otherwise
            np.testing.assert_allclose(array, other.run(inputs)[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", KEEPING)
def test_a_changed_number_and_an_unannounced_type_are_found(make_checkpoint, tmp_path, target):
    with Checkpoint.open(make_checkpoint("bert-bf16")) as checkpoint:
        expected, sums = digest_tensors(checkpoint), summarize(checkpoint)
        artifact = Artifact.read(export_artifact(checkpoint, target, tmp_path / target, **{KEEP_BF16: True}))
    found, faults = audit(artifact, expected, sums)
    assert (found.exact, faults) == (len(expected), [])
    *_, (_, (fault, *_)) = [audit(Artifact(artifact.folder, {**artifact.description, "options": {}}), expected, sums)]
    assert fault.endswith("expected F32; found BF16")
    place = TARGETS[target].stored_tensors(artifact.folder)[0]
    with open(place.path, "r+b") as file:
        file.seek(place.spans[0][0])
        (low,) = file.read(1)
        file.seek(place.spans[0][0])
        file.write(bytes([low ^ 1]))  # one ulp
    faults = audit(artifact, expected, sums)[1]
    assert faults
    assert all(fault.endswith(f"{place.name}: differs from the checkpoint's") for fault in faults)


def test_int8_beside_it_is_quantized_again_from_it(make_checkpoint, tmp_path):
    with Checkpoint.open(make_checkpoint("bert-bf16")) as checkpoint:
        expected, sums = digest_tensors(checkpoint), summarize(checkpoint)
        export_artifact(checkpoint, "pytorch", tmp_path / "pytorch", **{KEEP_BF16: True})
        int8 = Artifact.read(export_artifact(checkpoint, "onnx-int8", tmp_path / "onnx-int8"))
    found, faults = audit(int8, expected, sums)
    assert (found.requantized, found.rounded, faults) == (21, 0, [])


def test_the_calibration_of_a_bfloat16_checkpoint_is_that_of_its_numbers(make_checkpoint, tmp_path):
    """Written as float32, a checkpoint has the same int8 weights, bit for bit."""
    folder = make_checkpoint("bert-bf16")
    assert main(["import", str(folder), "--out", str(tmp_path / "wide")]) == 0
    written = []
    for number, source in enumerate((folder, tmp_path / "wide")):
        with Checkpoint.open(source) as checkpoint:
            written.append(export_artifact(checkpoint, "onnx-int8", tmp_path / str(number)) / "model.onnx.data")
    assert written[0].read_bytes() == written[1].read_bytes()


@pytest.mark.parametrize(
    ("variant", "names", "says"),
    [
        ("bert", ["onnx"], "found 60 F32: `precision` may be fp32"),
        ("bert-fp16", ["onnx"], "found 60 F16: `precision` may be fp32"),
        ("bert-bf16", ["onnx-int8"], "bf16: is for pytorch, flax, onnx; none of them is a target"),
        ("bert-bf16", list(TARGETS), "bf16: tensorflow, openvino, litert cannot hold bfloat16"),
    ],
)
def test_what_cannot_be_kept_is_refused(make_checkpoint, variant, names, says):
    with (
        Checkpoint.open(make_checkpoint(variant)) as checkpoint,
        pytest.raises(InputError) as error,
    ):
        choose_float_options(checkpoint, [TARGETS[name] for name in names], "bf16")
    assert len(error.value.faults) == 1
    assert says in error.value.faults[0]


def test_every_reason_is_told_at_once(make_checkpoint):
    with Checkpoint.open(make_checkpoint()) as checkpoint, pytest.raises(InputError) as error:
        choose_float_options(checkpoint, list(TARGETS.values()), "bf16")
    assert len(error.value.faults) == 2


def test_another_precision_is_not_up_to_date(make_checkpoint, tmp_path, capsys):
    checkpoint, out = str(make_checkpoint("bert-bf16")), tmp_path / "release"
    export = ["export", checkpoint, "--out", str(out), "--target", "onnx"]
    sizes = []
    for more in ([], ["--precision", "bf16"], ["--precision", "bf16"]):
        assert main([*export, *more]) == 0
        sizes.append((out / "onnx" / "model.onnx.data").stat().st_size)
    assert sizes[1] == sizes[2] < 0.6 * sizes[0]
    assert capsys.readouterr().out.count("up to date") == 1
    assert Artifact.read(out / "onnx").description["options"] == {KEEP_BF16: True}
    assert main(["verify", str(out)]) == 0


def test_refused_on_the_command_line_with_its_flags(make_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(make_checkpoint()), "--out", str(out), "--precision", "bf16"]) == 2
    said = capsys.readouterr().err
    assert "--precision:\n  - bf16: tensorflow, openvino, litert cannot hold bfloat16: --target may be" in said
    assert "\n  - bf16: keeps tensors that are bfloat16" in said
    assert not out.exists()


def test_an_import_keeps_what_is_bfloat16(make_checkpoint, tmp_path):
    source = make_checkpoint("bert-mixed", shards=2)
    assert main(["import", str(source), "--out", str(tmp_path / "out"), "--precision", "bf16"]) == 0
    with Checkpoint.open(tmp_path / "out") as found, Checkpoint.open(source) as expected:
        assert found.dtypes == expected.dtypes
        for parameter in expected.parameters():
            assert found.dtype_of(parameter.name, True) == expected.dtype_of(parameter.name, True)
            assert np.array_equal(found.array(parameter.name), expected.array(parameter.name))


def test_an_import_without_bfloat16_is_refused(make_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["import", str(make_checkpoint("bert-fp16")), "--out", str(out), "--precision", "bf16"]) == 2
    said = "--precision:\n  - bf16: keeps tensors that are bfloat16; found 60 F16: --precision may be fp32\n"
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_an_import_keeps_what_it_turns(make_checkpoint, tmp_path):
    """Flax's kernels are transposed on the way in, and stay bfloat16."""
    with Checkpoint.open(make_checkpoint("bert-bf16")) as checkpoint:
        flax = export_artifact(checkpoint, "flax", tmp_path / "flax", **{KEEP_BF16: True})
        assert main(["import", str(flax), "--out", str(tmp_path / "out"), "--precision", "bf16"]) == 0
        with Checkpoint.open(tmp_path / "out") as found:
            assert found.dtypes == {"BF16": len(found.parameters())}
            assert all(np.array_equal(found.array(one.name), checkpoint.array(one.name)) for one in found.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["bert-bf16", "qwen2-bf16"])
def test_transformers_computes_in_float32_from_it(make_checkpoint, tmp_path, variant):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
        folder = export_artifact(checkpoint, "pytorch", tmp_path / "pytorch", **{KEEP_BF16: True})
    ids = np.array([[2, 7, 9, 3]])
    for dtype in ({}, {"dtype": "auto"}):  # transformers 5 takes the second by default
        model = transformers.AutoModel.from_pretrained(folder, **dtype).eval()
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        found = model(torch.from_numpy(ids)).last_hidden_state.detach().numpy()
        with open_runtime(folder) as runtime:
            np.testing.assert_allclose(
                found, runtime.run({"input_ids": ids}, ["last_hidden_state"])["last_hidden_state"], atol=1e-5
            )
