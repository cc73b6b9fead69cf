"""Steps with a cache give the logits of a whole pass, and verification notices where they do not."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.agreement import padded_batch
from tests.artifacts import slow
from yizhi.converters.onnx_files import WEIGHT_FILE, step_feeds, step_outputs
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.parity import oracle
from yizhi.parity.claims import find_false_claims
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.runtimes import Past, generate, open_runtime
from yizhi.runtimes.base import Inputs

STEPPING = [name for name, target in TARGETS.items() if target.steps]
LENGTH = 21
PIECES = {"prefill, then one by one": [15, *[1] * 6], "from the first token on": [1] * LENGTH, "in parts": [4, 9, 1, 7]}


def read_in_pieces(runtime, inputs, sizes):
    """Logits [B, T, V], and the last past."""
    past, logits, begin = None, [], 0
    for size in sizes:
        columns = slice(begin, begin + size)
        piece = {name: array[:, columns] for name, array in inputs.as_dict().items()}
        outputs, past = runtime.step(piece, past)
        logits.append(outputs["logits"])
        begin += size
    return np.concatenate(logits, axis=1), past


def without_segments(inputs):
    return Inputs.of(inputs.input_ids, inputs.attention_mask)


@pytest.mark.parametrize("sizes", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("variant", ["qwen2", "qwen3"])
@pytest.mark.parametrize("target", STEPPING)
def test_a_text_read_in_pieces_has_the_logits_of_the_whole(open_artifact, target, variant, sizes):
    """Of rows that are full, padded right, left and inside; one of nothing but padding stays finite."""
    checkpoint, runtime = open_artifact(variant, target)
    inputs = without_segments(padded_batch(checkpoint.config, LENGTH))
    found, past = read_in_pieces(runtime, inputs, sizes)
    real = inputs.attention_mask == 1
    expected = runtime.run(inputs, ["logits"])["logits"]
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    if TARGETS[target].precision == "int8":  # the last bits of attention, which a rounding may make larger
        np.testing.assert_allclose(found[real], expected[real], atol=0.05 * np.abs(expected).max())
    else:
        of_oracle = oracle.run(checkpoint, inputs, {"logits"})["logits"]
        np.testing.assert_allclose(found[real], of_oracle[real], rtol=1e-5, atol=2e-5)
    config = checkpoint.config
    shape = (5, config.num_key_value_heads, LENGTH, config.head_size)
    assert [(array.shape, array.dtype) for array in past.arrays] == [(shape, np.float32)] * 2 * config.num_hidden_layers
    np.testing.assert_array_equal(past.attention_mask, inputs.attention_mask)


@pytest.mark.parametrize("target", STEPPING)
def test_several_steps_may_follow_one_past(open_artifact, target):
    """A past is not changed by what follows it."""
    checkpoint, runtime = open_artifact("qwen3", target)
    inputs = without_segments(padded_batch(checkpoint.config, LENGTH))
    _, past = read_in_pieces(runtime, inputs, [10])
    before = [array.copy() for array in past.arrays]
    first, _ = runtime.step({"input_ids": inputs.input_ids[:, 10:13]}, past)
    runtime.step({"input_ids": inputs.input_ids[:, 3:5]}, past)
    again, _ = runtime.step({"input_ids": inputs.input_ids[:, 10:13]}, past)
    np.testing.assert_array_equal(first["logits"], again["logits"])
    for one, other in zip(past.arrays, before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["qwen2", "qwen3"])
def test_transformers_has_the_same_logits_and_the_same_cache(open_artifact, variant):
    """In float64, as the oracle is: its own cache, masks and positions."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    checkpoint, runtime = open_artifact(variant, "onnx")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.folder, attn_implementation="sdpa")
    model = model.double().eval()
    inputs = without_segments(padded_batch(checkpoint.config, LENGTH))
    cache, past, begin = None, None, 0
    for size in PIECES["in parts"]:
        end = begin + size
        ids, mask = inputs.input_ids[:, begin:end], inputs.attention_mask[:, :end]
        with torch.no_grad():
            given = {"input_ids": torch.from_numpy(ids.copy()), "attention_mask": torch.from_numpy(mask.copy())}
            theirs = model(**given, past_key_values=cache, use_cache=True)
        cache = theirs.past_key_values
        outputs, past = runtime.step({"input_ids": ids, "attention_mask": mask[:, begin:]}, past)
        real = mask[:, begin:] == 1
        # Their norms and angles are float32's.
        np.testing.assert_allclose(outputs["logits"][real], theirs.logits.numpy()[real], rtol=1e-4, atol=1e-4)
        begin = end
    real = inputs.attention_mask == 1
    for layer, (keys, values) in enumerate(past.layers):
        for ours, of_theirs in ((keys, cache.layers[layer].keys), (values, cache.layers[layer].values)):
            one, other = (np.swapaxes(array, 1, 2)[real] for array in (ours, of_theirs.numpy()))
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def greedy(runtime, row, count):
    """By whole passes."""
    ids = list(row)
    for _ in range(count):
        ids.append(int(runtime.run({"input_ids": [ids]}, ["logits"])["logits"][0, -1].argmax()))
    return ids[len(row) :]


@pytest.mark.parametrize("target", STEPPING)
def test_a_continuation_is_that_of_whole_passes(open_artifact, target):
    _, runtime = open_artifact("qwen2", target)
    rows = [[5, 9, 33, 21, 7], [8, 40], [11, 12, 13]]
    found = generate(runtime, rows, 8)
    assert found.dtype == np.int64
    assert found.tolist() == [greedy(runtime, row, 8) for row in rows]
    assert len(set(found.ravel().tolist())) > 3  # not one token over and over, whose place would not matter


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_optimum_generates_with_the_graph(open_artifact):
    optimum, torch = pytest.importorskip("optimum.onnxruntime"), pytest.importorskip("torch")
    _, runtime = open_artifact("qwen2", "onnx")
    model = optimum.ORTModelForCausalLM.from_pretrained(runtime.artifact.folder, file_name="step.onnx")
    ids = torch.tensor([[0, 0, 8, 40], [5, 9, 33, 21]])
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        **{"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0},
    )
    assert found[:, 4:].tolist() == generate(runtime, [[8, 40], [5, 9, 33, 21]], 8).tolist()


@pytest.mark.parametrize(("target", "names"), [("onnx", ["step"]), ("onnx-int8", ["step", "step_u8s8"])])
def test_the_graph_is_valid_and_shares_the_weight_file(open_artifact, target, names):
    onnx = pytest.importorskip("onnx")
    checkpoint, runtime = open_artifact("qwen3", target)
    layers, config = len(checkpoint.spec.layers), checkpoint.config
    for name in names:
        path = runtime.artifact.folder / f"{name}.onnx"
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path, load_external_data=False).graph
        axes = {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }
        cache = {name: ["batch", 2, "past", 12] for name in step_feeds([0] * 2 * layers)}
        assert {value.name: axes[value.name] for value in graph.input} == {
            "input_ids": ["batch", "length"],
            "attention_mask": ["batch", "past + length"],
            **cache,
        }
        assert [value.name for value in graph.output] == step_outputs(layers)
        assert axes["logits"] == ["batch", "length", config.vocab_size]
        assert axes["present.1.value"] == ["batch", 2, "past + length", 12]
        whole = onnx.load(path.with_stem(name.replace("step", "model")), load_external_data=False)
        stored = [
            {tensor.name: str(tensor.external_data) for tensor in one.initializer if tensor.external_data}
            for one in (graph, whole.graph)
        ]
        assert stored[0] == stored[1]
        assert f'"{WEIGHT_FILE}"' in next(iter(stored[0].values()))


@pytest.fixture(scope="module")
def golden(open_artifact):
    return {variant: Golden.make(open_artifact(variant, "pytorch")[0]) for variant in ("qwen2", "qwen3")}


@pytest.mark.parametrize("target", STEPPING)
@pytest.mark.parametrize("variant", ["qwen2", "qwen3"])
def test_verification_reads_cases_in_steps(open_artifact, golden, target, variant):
    _, runtime = open_artifact(variant, target)
    verdict = verify(runtime, golden[variant], TARGETS[target].precision)
    assert not verdict.faults
    assert {found.case for found in verdict.differences if found.signature == "step"} == {
        f"{name}, in steps" for name in ("length-17", "padding-right", "padding-left", "padding-interior")
    }


def forget_mask(step, inputs, past):
    return step({"input_ids": inputs.input_ids}, past)


def forget_past(step, inputs, past):
    return step(inputs, None)


def swap_heads(step, inputs, past):
    layers = past and tuple((keys[:, ::-1], values[:, ::-1]) for keys, values in past.layers)
    return step(inputs, past and replace(past, layers=layers))


@pytest.mark.parametrize("wrong", [forget_mask, forget_past, swap_heads])
@pytest.mark.parametrize("target", STEPPING)
def test_verification_holds_steps_to_the_oracle(open_artifact, golden, monkeypatch, target, wrong):
    """The fault names the step, and no whole pass."""
    _, runtime = open_artifact("qwen3", target)
    monkeypatch.setattr(runtime, "step", partial(wrong, runtime.step))
    faults = verify(runtime, golden["qwen3"], TARGETS[target].precision).faults
    assert len(faults) == 1
    assert "in steps" in faults[0]


def test_a_step_that_is_not_finite_is_a_fault(open_artifact, golden, monkeypatch):
    _, runtime = open_artifact("qwen3", "onnx-int8")
    step = runtime.step

    def break_one(inputs, past):
        outputs, past = step(inputs, past)
        outputs["logits"][-1, 0, 0] = np.nan  # in one case, of a row that is all padding
        return outputs, past

    monkeypatch.setattr(runtime, "step", break_one)
    assert any("in steps): " in fault and "NaN" in fault for fault in verify(runtime, golden["qwen3"], "int8").faults)


@pytest.fixture
def alter(open_artifact, tmp_path):
    """`alter("pytorch", change)` copies an artifact, changes its description, and returns the folder."""

    def make(target, change):
        _, runtime = open_artifact("qwen3", target)
        path = Path(shutil.copytree(runtime.artifact.folder, tmp_path / target)) / DESCRIPTION
        description = json.loads(path.read_text(encoding="utf-8"))
        change(description)
        path.write_text(json.dumps(description), encoding="utf-8")
        return path.parent

    return make


@pytest.mark.parametrize("target", ["pytorch", "onnx"])
def test_an_artifact_that_hides_its_step_is_found(golden, alter, target):
    """Nothing else would say that steps were not compared."""
    folder = alter(target, lambda description: description.pop("step"))
    faults = find_false_claims(Artifact.read(folder), golden["qwen3"])
    assert any(fault.startswith("artifact.json: step: expected") for fault in faults)
    with open_runtime(folder) as older, pytest.raises(InputError, match="an older version made it; export it again"):
        older.step({"input_ids": [[1, 2]]})


@pytest.mark.parametrize(
    ("variant", "target", "why"),
    [
        ("bert", "onnx", "it is no causal language model"),
        ("qwen3-no-head", "pytorch", "it is no causal language model"),
        ("qwen3", "openvino", "targets that have one: pytorch, onnx, onnx-int8"),
        slow("qwen3", "flax", "targets that have one: pytorch, onnx, onnx-int8"),
    ],
)
def test_artifacts_without_a_step_say_why(open_artifact, variant, target, why):
    _, runtime = open_artifact(variant, target)
    with pytest.raises(InputError, match=f"has no step with a cache.*{why}"):
        runtime.step({"input_ids": [[1, 2]]})
    with pytest.raises(InputError, match="has no step with a cache"):
        generate(runtime, [[1, 2]], 1)


@pytest.mark.parametrize("target", STEPPING)
def test_a_past_that_does_not_fit_is_refused(open_artifact, target):
    checkpoint, runtime = open_artifact("qwen3", target)
    _, past = runtime.step({"input_ids": [[1, 2, 3], [4, 5, 6]]})
    keys, values = past.layers[0]
    wrong = Past(past.attention_mask.astype(float), ((keys[:, :, 1:], values.astype(np.float64)), *past.layers[1:-1]))
    with pytest.raises(InputError) as told:
        runtime.step({"input_ids": [[7], [8]]}, wrong)
    assert told.value.faults == [
        "attention_mask: expected int64 [2, tokens before]; found float64 [2, 3]",
        f"layers: expected {len(past.layers)}; found {len(past.layers) - 1}",
        "layers[0]: keys: expected float32 [2, 2, 3, 12]; found float32 [2, 2, 2, 12]",
        "layers[0]: values: expected float32 [2, 2, 3, 12]; found float64 [2, 2, 3, 12]",
    ]
    with pytest.raises(InputError, match=r"attention_mask: expected int64 \[1, tokens before\]; found int64 \[2, 3\]"):
        runtime.step({"input_ids": [[7]]}, past)
    longest = checkpoint.config.longest
    with pytest.raises(InputError, match=f"expected at most {longest} tokens a row; found 3 before, and {longest - 2}"):
        runtime.step({"input_ids": np.ones((2, longest - 2), int)}, past)
    with pytest.raises(InputError, match="input_ids: expected 0 …"):
        runtime.step({"input_ids": [[-1], [1]]}, past)


@pytest.mark.parametrize(("rows", "count"), [([], 2), ([[1], []], 2), ([[1]], 0), (np.zeros((2, 0), int), 1)])
def test_nothing_to_continue_is_refused(open_artifact, rows, count):
    _, runtime = open_artifact("qwen3", "onnx")
    with pytest.raises(InputError, match="rows: expected" if count else "count: expected 1 or more; found 0"):
        generate(runtime, rows, count)
