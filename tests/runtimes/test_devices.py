"""Devices and tiers of arithmetic: what is not to be had is not run, and what a framework does is read back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.artifacts import export_artifact, slow
from tests.checkpoints import write_variant
from yizhi.errors import InputError, NotRun
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.parity.tolerances import find_gates
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Inputs
from yizhi.runtimes.onnx_placement import find_misplaced, read_placement

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
INPUTS = Inputs.of([[2, 5, 7, 3]])


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    return Checkpoint.open(write_variant(folder / "checkpoint", "bert")), folder


def artifact(subject, target):
    checkpoint, folder = subject
    return folder / target if (folder / target).exists() else export_artifact(checkpoint, target, folder / target)


@pytest.mark.parametrize(("target", "module"), [("pytorch", "torch"), ("flax", "flax"), ("onnx", "onnxruntime")])
def test_without_a_gpu_cuda_is_not_run(subject, target, module):
    pytest.importorskip(module)
    if has_gpu(target):
        pytest.skip("there is a GPU here")
    with pytest.raises(NotRun, match=r"CUDA|no such device"):
        open_runtime(artifact(subject, target), device="cuda")


def has_gpu(target):
    if target == "onnx":
        import onnxruntime

        return CUDA in onnxruntime.get_available_providers()
    torch = pytest.importorskip("torch")
    return torch.cuda.is_available()


@pytest.mark.parametrize(
    ("target", "math"), [("pytorch", "tf32"), ("flax", "tf32"), ("onnx", "bf16"), ("onnx-int8", "bf16")]
)
def test_a_tier_that_a_target_has_not_is_not_run(subject, target, math):
    pytest.importorskip({"pytorch": "torch", "flax": "flax"}.get(target, "onnxruntime"))
    with pytest.raises(NotRun, match=f"no {math} for {target} on cpu: it has strict"):
        open_runtime(artifact(subject, target), math=math)


def test_an_unknown_tier_is_bad_input(subject):
    pytest.importorskip("torch")
    with pytest.raises(InputError, match="expected one of strict, tf32, bf16, fp16; found 'fp8'"):
        open_runtime(artifact(subject, "pytorch"), math="fp8")


# --- PyTorch


def test_pytorch_strict_overrides_what_the_process_had_set(subject):
    torch = pytest.importorskip("torch")
    torch.set_float32_matmul_precision("medium")
    with open_runtime(artifact(subject, "pytorch")) as runtime:
        assert runtime.settings() == {
            "weights": "torch.float32",
            "float32_matmul_precision": "highest",
            "cuda.matmul.allow_tf32": "False",
            "cudnn.allow_tf32": "False",
        }
        assert runtime.find_fallbacks(INPUTS) == []
        runtime.device = "cuda"
        assert any(": on cpu" in line for line in runtime.find_fallbacks(INPUTS))


def test_pytorch_on_cuda_strict_has_no_tf32_and_no_fused_attention():
    torch = pytest.importorskip("torch")
    from yizhi.runtimes.pytorch_runtime import set_arithmetic

    cuda = torch.backends.cuda
    try:
        set_arithmetic("cuda", "tf32")
        assert cuda.matmul.allow_tf32
        assert cuda.mem_efficient_sdp_enabled()
        set_arithmetic("cuda", "strict")
        assert not cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        assert not any((cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()))
        assert cuda.math_sdp_enabled()
    finally:
        set_arithmetic("cuda", "tf32")
        set_arithmetic("cpu", "strict")


# --- JAX


def test_jax_products_ask_for_full_float32_whatever_the_process_had_set(subject):
    pytest.importorskip("flax")
    import jax

    with jax.default_matmul_precision("bfloat16"), open_runtime(artifact(subject, "flax")) as runtime:
        settings = runtime.settings()
    assert (settings["weights"], settings["product precision"]) == ("float32", "HIGHEST")
    assert settings["device"].startswith("cpu")


def test_jax_tf32_reaches_the_products(subject, monkeypatch):
    pytest.importorskip("flax")
    from yizhi.runtimes.flax_runtime import FlaxRuntime

    monkeypatch.setattr(FlaxRuntime, "tiers", {"cpu": ("strict", "tf32")})
    with open_runtime(artifact(subject, "flax"), math="tf32") as runtime:
        assert "HIGHEST" not in runtime.settings()["product precision"]
        assert "not found" not in runtime.settings()["product precision"]


# --- tiers and their tolerances


def one_case(subject):
    golden = Golden.make(subject[0])
    return replace(golden, cases=[replace(case, alone=()) for case in golden.cases if case.name == "masks"])


@pytest.mark.parametrize(("target", "module"), [("pytorch", "torch"), slow("flax", "flax")])
@pytest.mark.parametrize(("math", "weights"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_a_tier_meets_its_requirement_and_not_that_of_float32(subject, target, module, math, weights):
    pytest.importorskip(module)
    golden = one_case(subject)
    with open_runtime(artifact(subject, target), math=math) as runtime:
        record = verify(runtime, golden, math).record()
        assert not verify(runtime, golden, "fp32").passed
    assert (record.passed, record.faults) == (True, [])
    assert record.tolerance == find_gates(math, "cuda")
    assert record.requirement.startswith("requirement from simulation; hardware seen: ")
    assert weights in record.settings["weights"]


def test_what_has_no_tolerance_is_measured_and_never_passes(subject):
    pytest.importorskip("torch")
    golden = one_case(subject)
    with open_runtime(artifact(subject, "pytorch"), math="bf16") as runtime:
        verdict = verify(runtime, golden, "fp8")
    answer = verdict.record().as_dict()
    assert (verdict.passed, answer["not_judged"], answer["tolerance"]) == (False, True, None)
    assert answer["faults"] == ["not run: there is no tolerance for fp8 on cpu; errors are not judged"]
    errors = [worst["error"] for worst in answer["worst"].values()]
    assert 1e-3 < max(errors) < 1  # 8 bits of mantissa, and still the same model
    needs = answer["worst"]["last_hidden_state"]["excess"]
    assert 1e-4 < needs < max(errors)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_nan_is_a_failure_with_a_tolerance_and_without(subject, monkeypatch, precision):
    pytest.importorskip("torch")
    golden = one_case(subject)
    with open_runtime(artifact(subject, "pytorch"), math="bf16") as runtime:
        original = runtime._run
        monkeypatch.setattr(
            runtime, "_run", lambda *given: {name: array * np.nan for name, array in original(*given).items()}
        )
        verdict = verify(runtime, golden, precision)
    assert not verdict.not_judged
    assert any("NaN" in fault for fault in verdict.faults)
    assert verdict.first_bad_layer() == "hidden_states.0"


def test_int8_has_no_gpu(subject):
    pytest.importorskip("onnxruntime")
    with pytest.raises(NotRun, match="no strict for onnx-int8 on cuda: it has none"):
        open_runtime(artifact(subject, "onnx-int8"), device="cuda")


def test_jax_normalises_in_float32_where_squares_are_beyond_float16():
    jnp = pytest.importorskip("jax.numpy")
    from yizhi.converters.forwards.flax import Pass, layer_norm
    from yizhi.model.spec import Norm

    x = np.array([[900.0, -300.0, 0.0, -600.0]])
    norm = Norm("norm", 4, 1e-12)
    p = {norm.weight: jnp.ones(4, jnp.float16), norm.bias: jnp.zeros(4, jnp.float16)}
    found = layer_norm(Pass(p, None), norm, jnp.asarray(x, jnp.float16))
    assert found.dtype == jnp.float16
    np.testing.assert_allclose(found, x / x.std(), rtol=1e-3)


# --- ONNX Runtime


def test_a_profile_on_the_cpu_is_no_proof_of_a_gpu(subject, tmp_path):
    pytest.importorskip("onnxruntime")
    with open_runtime(artifact(subject, "onnx")) as runtime:
        profile = runtime.profile(INPUTS, tmp_path)
        assert runtime.find_fallbacks(INPUTS) == []
        assert runtime.settings() == {"providers": CPU}
    placed = read_placement(profile)
    assert sum("Gemm" in node.operator for node in placed) > 10
    assert {node.provider for node in placed} == {CPU}
    assert find_misplaced(profile, CPU) == []
    assert find_misplaced(profile, CUDA) == [f"no node ran on {CUDA}: {len(placed)} nodes on {CPU}"]


def test_one_node_on_the_cpu_is_named_and_shapes_are_left_aside(tmp_path):
    def event(name, operator, provider, kind):
        shape = [{kind: [2, 3]}]
        args = {"op_name": operator, "provider": provider, "input_type_shape": shape, "output_type_shape": shape}
        return {"cat": "Node", "name": f"{name}_kernel_time", "args": args}

    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        event("a/Gemm", "Gemm", CUDA, "float"),
        event("a/Shape", "Shape", CPU, "int64"),
        event("b/QGemm", "QGemm", CPU, "float"),
    ]
    (tmp_path / "p.json").write_text(json.dumps(events))
    assert find_misplaced(tmp_path / "p.json", CUDA) == [f"b/QGemm (QGemm): ran on {CPU}"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '[{"cat": "Node", "name": "x_kernel_time"}]', "[1]"])
def test_what_is_no_profile_proves_nothing(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=r"p\.json"):
        find_misplaced(tmp_path / "p.json", CUDA)


@pytest.mark.parametrize(("math", "tf32"), [("strict", "0"), ("tf32", "1")])
def test_onnx_runtime_that_cannot_start_cuda_is_not_run(subject, monkeypatch, math, tf32):
    """ONNX Runtime warns and goes on with the CPU where a CUDA library is missing."""
    onnxruntime = pytest.importorskip("onnxruntime")
    asked = []

    class Session:
        def __init__(self, graph, options, providers):
            asked.append(providers)

        def get_providers(self):
            return [CPU]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    runtime = open_runtime(artifact(subject, "onnx"), device="cuda", math=math)
    with pytest.raises(NotRun, match="could not start CUDA"):
        runtime.run(INPUTS)
    assert asked == [[(CUDA, {"use_tf32": tf32}), CPU]]
