"""The gates catch known faults, and bisecting names them. `make mutations` does the same on every target."""

import numpy as np
import pytest

from parity_tests.mutation_table import LAYER, Laboratory, cut, first_failure
from tests.artifacts import slow
from tests.checkpoints import ADAPTER_VARIANTS, VARIANTS
from tests.sentence_folders import SENTENCE_VARIANTS
from yizhi.converters.targets import TARGETS
from yizhi.model.architectures import CLASS_SUFFIXES, FAMILIES
from yizhi.parity import oracle
from yizhi.parity.bisect import bisect
from yizhi.parity.faults import FP32, IN_STEPS, INT8, STORED, TEXT, AlteredCheckpoint
from yizhi.parity.judge import verify
from yizhi.parity.mutations import FAULTS
from yizhi.parity.verdict import Verdict
from yizhi.parity.weight_faults import round_mantissa

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("mutations"))


# What the wide tolerances of a GPU's tiers let pass, although strict float32 does not (docs/gpu.md).
UNSEEN = {
    "GELU by tanh": ("tf32", "bf16", "fp16"),
    "epsilon 1e-5": ("tf32", "bf16", "fp16"),
    "weights through float16": ("tf32", "bf16", "fp16"),
    "weights through bfloat16": ("tf32", "bf16", "fp16"),
    "TF32 left on": ("tf32", "bf16", "fp16"),
    "unbiased variance in LayerNorm": ("tf32", "bf16"),
    "query bias dropped": ("bf16",),
    "rotary base of other layers": ("bf16",),
    "decoder bias dropped": ("bf16",),
    "classifier bias dropped": ("bf16",),
    "ReLU for GELU in ELECTRA's head": ("bf16",),
    "mask ignored in weights of the vocabulary": ("bf16",),
}


IN_TENSORS = [fault for fault in FAULTS if fault.shows not in (TEXT, STORED, IN_STEPS)]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.shows == TEXT], ids=str)
@pytest.mark.parametrize("target", ["pytorch", "onnx-int8"])
def test_a_fault_of_text_is_caught_and_no_tensor_is_blamed(laboratory, fault, target):
    finding = laboratory.judge(fault, target)
    assert finding.seen == TEXT
    assert finding.says.startswith("text: ")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.shows == STORED], ids=str)
@pytest.mark.parametrize(
    "target", ["pytorch", "flax", "onnx", "onnx-int8", "litert", "litert-int8", slow("tensorflow")]
)
def test_a_fault_that_no_output_shows_is_caught_where_it_is_stored(laboratory, fault, target):
    finding = laboratory.judge(fault, target)
    assert finding.seen == STORED
    assert "the checkpoint's" in finding.says


@pytest.mark.parametrize(
    ("target", "fault"),
    [(target, fault) for fault in FAULTS if fault.shows == IN_STEPS for target in fault.targets],
    ids=str,
)
def test_a_fault_of_steps_is_caught_and_no_whole_pass_is_blamed(laboratory, target, fault):
    assert laboratory.judge(fault, target).seen == IN_STEPS


@pytest.mark.parametrize("fault", [fault for fault in IN_TENSORS if "pytorch" in fault.targets], ids=str)
def test_fault_is_caught_where_it_was_made_and_named(laboratory, fault):
    checkpoint, golden = laboratory.subject(fault.variant)
    golden = cut(golden, "pytorch")
    with laboratory.faulty(fault, "pytorch") as runtime:
        verdict = verify(runtime, golden, "fp32")
        diagnosis = bisect(runtime, checkpoint, golden, verdict)
        let_pass = {tier for tier in ("tf32", "bf16", "fp16") if verify(runtime, golden, tier).passed}
    expected = fault.first_output(checkpoint.spec, LAYER)
    assert (first_failure(verdict), diagnosis.output) == (expected, expected)
    assert diagnosis.cause.startswith(f"{fault.name} (")
    assert let_pass <= set(UNSEEN.get(fault.name, ()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "fault"),
    [(target, fault) for target in INT8 for fault in IN_TENSORS if target in fault.targets],
    ids=str,
)
def test_int8_gates_catch_it_too(laboratory, target, fault):
    finding = laboratory.judge(fault, target)
    assert finding.caught, finding.says


@pytest.mark.parametrize("target", ["pytorch", slow("onnx-int8")])
@pytest.mark.parametrize("variant", sorted({fault.variant for fault in FAULTS}))
def test_the_unaltered_artifact_passes(laboratory, variant, target):
    if any(fault.variant == variant and target in fault.targets for fault in FAULTS):
        assert not laboratory.check_unaltered(variant, target).faults


def test_there_are_enough_faults_and_each_says_where_it_cannot_be_made():
    assert len(FAULTS) >= 25
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert bool(fault.why_not) == (fault.targets != FP32 + INT8), fault.name


def test_faults_are_made_in_every_family_task_and_target():
    variants = {**VARIANTS, **ADAPTER_VARIANTS, **SENTENCE_VARIANTS, "loud": {}}
    assert {variants[fault.variant].get("model_type", "bert") for fault in FAULTS} == set(FAMILIES)
    assert {task for fault in FAULTS for task in fault.tasks} == set(CLASS_SUFFIXES) - {"features"}
    assert set(FP32 + INT8) == set(TARGETS) == {target for fault in FAULTS for target in fault.targets}


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("query and key swapped", "query"),
        ("key and value swapped", "key"),
        ("mask ignored for one head", "context"),
        ("attention output transposed", "attention_output"),
        ("residual dropped", "after_attention"),
        ("GELU by tanh", "intermediate"),
        ("one sign flipped", "output"),
        ("LayerNorm scale and offset swapped", None),
    ],
)
def test_bisecting_names_the_first_tensor(laboratory, name, tensor):
    fault = next(fault for fault in FAULTS if fault.name == name)
    checkpoint, golden = laboratory.subject(fault.variant)
    golden = cut(golden, "onnx")
    with laboratory.faulty(fault, "onnx") as runtime:
        diagnosis = bisect(runtime, checkpoint, golden, verify(runtime, golden, "fp32"))
    assert (diagnosis.tensor and diagnosis.tensor.rpartition(".")[2]) == tensor


@pytest.mark.parametrize("name", ["two labels swapped", "start and end swapped"])
def test_bisecting_int8_labels(laboratory, name):
    """By their relative error, as the gate judges them: two labels' cosine says little."""
    fault = next(fault for fault in FAULTS if fault.name == name)
    checkpoint, golden = laboratory.subject(fault.variant)
    golden = cut(golden, "onnx-int8")
    assert bisect(laboratory.original(fault.variant, "onnx-int8"), checkpoint, golden, Verdict("int8", "cpu")) is None
    with laboratory.faulty(fault, "onnx-int8") as runtime:
        diagnosis = bisect(runtime, checkpoint, golden, verify(runtime, golden, "int8"))
    assert (diagnosis.output, diagnosis.cause.partition(" (")[0]) == ("logits", name)


@pytest.mark.parametrize(("name", "sound"), [("ReLU for GELU", True), ("one channel's scale wrong", False)])
def test_int8_says_what_helps_only_where_its_numbers_are_right(laboratory, name, sound):
    fault = next(fault for fault in FAULTS if fault.name == name)
    _, golden = laboratory.subject(fault.variant)
    with laboratory.faulty(fault, "onnx-int8") as runtime:
        faults = verify(runtime, cut(golden, "onnx-int8"), "int8").faults
    assert any("`keep_fp32`" in line for line in faults) == sound
    assert any("mean cosine: expected at least 0.998" in line for line in faults)


def test_bisecting_claims_no_cause_for_an_unknown_fault(laboratory):
    checkpoint, golden = laboratory.subject("bert")
    golden = cut(golden, "pytorch")
    runtime = laboratory.original("bert", "pytorch")
    bias = runtime._module.get_parameter("bert.encoder.layer.1.output.dense.bias")
    before = bias.clone()
    try:
        bias[3:9] = before[3:9].flip(0)
        diagnosis = bisect(runtime, checkpoint, golden, verify(runtime, golden, "fp32"))
    finally:
        bias.copy_(before)
    assert (diagnosis.tensor, diagnosis.cause) == ("layers.1.output", None)


def test_a_sound_artifact_has_nothing_to_bisect(laboratory):
    checkpoint, golden = laboratory.subject("bert")
    golden = cut(golden, "pytorch")
    runtime = laboratory.original("bert", "pytorch")
    assert bisect(runtime, checkpoint, golden, verify(runtime, golden, "fp32")) is None


# --- two mistakes that change nothing


def test_a_key_bias_changes_nothing(laboratory):
    checkpoint, golden = laboratory.subject("bert")
    altered = AlteredCheckpoint(checkpoint, FAULTS[0], checkpoint.spec.layers[0])
    altered._weights.replaced = {layer.key.bias: np.zeros(32, np.float32) for layer in checkpoint.spec.layers}
    for case in golden.cases[:8]:
        real = case.inputs.attention_mask == 1
        expected, found = (oracle.run(subject, case.inputs, {"logits"})["logits"] for subject in (checkpoint, altered))
        np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-12)


def test_a_mask_of_minus_10000_changes_nothing_where_scores_are_small(laboratory):
    """The oracle leaves padding out of the sound pass alone, and a product's last bit may follow its rows."""
    checkpoint, golden = laboratory.subject("bert")
    fault = next(fault for fault in FAULTS if fault.name == "mask of −10000")
    for case in golden.cases:
        real = case.inputs.attention_mask == 1
        expected = oracle.run(checkpoint, case.inputs, {"logits"})["logits"]
        found = oracle.run(checkpoint, case.inputs, {"logits"}, steps=fault.steps(oracle))["logits"]
        np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-12)


def test_round_mantissa_rounds_halves_to_even():
    x = np.array([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, -(1 + 2**-11), 0], np.float32)
    expected = [1 + 2**-10, 1, 1 + 2**-9, 1 + 2**-10, -1, 0]
    np.testing.assert_array_equal(round_mantissa(x, 10), np.array(expected, np.float32))


@pytest.mark.slow
def test_a_fault_of_layers_is_made_where_they_share_compiled_code(laboratory):
    """JAX's runtime compiles layers without their parameters' names: a fault must know its norms all the same."""
    pytest.importorskip("jax")
    fault = next(fault for fault in FAULTS if fault.name == "layers' last LayerNorm skipped")
    assert laboratory.judge(fault, "flax").seen == "hidden_states.1"
