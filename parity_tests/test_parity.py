"""Every family × every task × every target: exported, opened with its own framework, and held to the gates."""

from dataclasses import replace

import numpy as np
import pytest

from tests.artifacts import EVERY_TARGET, export_artifact, slow
from tests.checkpoints import ADAPTER_VARIANTS, HEADS, VARIANTS, make_spec, small_config, write_variant
from tests.sentence_folders import SENTENCE_VARIANTS
from yizhi.converters.targets import TARGETS, MissingFramework
from yizhi.model.architectures import CLASS_SUFFIXES, FAMILIES
from yizhi.model.config import EncoderConfig
from yizhi.model.label_heads import PROBLEM_TYPES, SEQUENCE
from yizhi.parity.compare import compare
from yizhi.parity.golden import Golden, is_sum, norm_of
from yizhi.parity.judge import verify
from yizhi.parity.tolerances import FloatTolerance
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime

# One of each shape that a forward pass can take; the other variants differ in their files alone.
SUBJECTS = (
    "bert",
    "bert-no-head",
    "bert-untied",
    "albert-groups",
    "electra-generator",
    "electra-discriminator",
    "megatron-bert",
    "ernie",
    "nezha",
    "roberta",
    "xlm-roberta",
    "roformer",
    "roformer-values",
    "modernbert",
    "modernbert-biases",
    "modernbert-mean",
    "qwen2-no-head",
    "qwen2",
    "qwen3",
    "qwen3-biases",
    "interbert",
    "interbert-sum",
    "bert-classifier",
    "albert-tagger",
    "electra-regression",
    "electra-reader",
    "bert-double_seq_bn",
    "bert-adapter_plus",
    "albert-groups-norm_of_residual",
    "electra-generator-by_layer",
    "bert-classifier-double_seq_bn",
    *SENTENCE_VARIANTS,
)

# With those above, every head of every family: one layer and few inputs, for what differs is the head.
OTHER_HEADS = tuple(
    variant
    for family in FAMILIES
    for head in HEADS
    if (variant := f"{family}-{head}") in VARIANTS and variant not in SUBJECTS
)
FEW_CASES = {"segments": ("hidden_states",), "padding-right": ("serving_default",)}


@pytest.fixture(scope="module", params=[*SUBJECTS, *map(slow, OTHER_HEADS)])
def subject(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in SUBJECTS:
        checkpoint = Checkpoint.open(write_variant(folder / "checkpoint", request.param))
        return checkpoint, Golden.make(checkpoint), folder
    config = {**VARIANTS[request.param].get("config", {}), "num_hidden_layers": 1}
    checkpoint = Checkpoint.open(write_variant(folder / "checkpoint", request.param, config=config))
    golden = Golden.make(checkpoint)
    few = [replace(case, alone=(), signatures=FEW_CASES[case.name]) for case in golden.cases if case.name in FEW_CASES]
    return checkpoint, replace(golden, cases=few), folder


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_artifact_meets_the_gates(subject, target):
    checkpoint, golden, folder = subject
    try:
        artifact = export_artifact(checkpoint, target, folder / target)
        with open_runtime(artifact) as runtime:
            verdict = verify(runtime, golden, TARGETS[target].precision)
    except MissingFramework as missing:
        pytest.skip(str(missing))
    assert verdict.passed, "\n".join(verdict.faults)


@pytest.fixture(scope="module", params=["xlm-roberta", "modernbert"])
def long_subject(request, tmp_path_factory):
    """A model of 2,000 positions, and its longest case."""
    folder = tmp_path_factory.mktemp(request.param)
    config = {"max_position_embeddings": 2000, "num_hidden_layers": 1}
    checkpoint = Checkpoint.open(write_variant(folder / "checkpoint", request.param, config=config))
    golden = Golden.make(checkpoint)
    return checkpoint, replace(golden, cases=[case for case in golden.cases if case.name == "length-1024"]), folder


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_more_positions_than_512(long_subject, target):
    test_artifact_meets_the_gates(long_subject, target)


def test_the_subjects_are_every_task_of_every_family():
    """A family or a task that is added is missing here until it has a variant."""
    variants = {**VARIANTS, **ADAPTER_VARIANTS, **SENTENCE_VARIANTS}
    chosen = [variants[name] for name in (*SUBJECTS, *OTHER_HEADS)]
    families = [given.get("model_type", "bert") for given in chosen]
    found = {(name, given.get("task", FAMILIES[name].lm_task)) for name, given in zip(families, chosen, strict=True)}
    expected = {
        (name, task) for name, family in FAMILIES.items() for task in ("features", family.lm_task, *family.label_heads)
    }
    expected |= {(name, "replaced-token-detection") for name, family in FAMILIES.items() if family.discriminator}
    assert found == expected
    assert {task for _, task in found} == set(CLASS_SUFFIXES)


def test_every_kind_of_classifier_is_a_subject():
    kinds = {name.removeprefix("bert-") for name in (*SUBJECTS, *OTHER_HEADS) if name.startswith("bert-")}
    heads = [
        make_spec(EncoderConfig.from_dict(small_config(**HEADS[kind].get("config", {}))), HEADS[kind]["task"]).head
        for kind in kinds & set(HEADS)
        if HEADS[kind]["task"] == SEQUENCE
    ]
    assert {head.problem_type for head in heads} == set(PROBLEM_TYPES)


def _golden(sums, offsets):
    return Golden([], {}, {}, sums, {name: np.array(offset, np.float32) for name, offset in offsets.items()}, {}, {})


def _passes(golden, output, reference, error):
    reference = np.array([reference], np.float32)
    found = reference.astype(np.float64) + error
    tolerance = FloatTolerance(1e-5, 1e-5, "")
    return compare("", "", output, found, reference, tolerance, golden.scale(output, reference)).passed


def test_sums_are_measured_against_their_vector():
    """A value near 0 in a long sum errs as the sum's largest terms do; after LayerNorm it may not."""
    assert _passes(_golden(["logits"], {}), "logits", [80.0, 0.0], 1e-4)
    assert not _passes(_golden([], {}), "logits", [80.0, 0.0], 1e-4)


def test_what_a_layer_norm_gives_is_measured_against_its_two_terms():
    """−4 + 4 rounds as 4 does; 0 + 0, beside it in the same vector, does not."""
    golden = _golden([], {"hidden_states.1": [4.0, 0.0]})
    assert _passes(golden, "hidden_states.1", [0.0, 3.0], [8e-5, 3e-5])
    assert not _passes(golden, "hidden_states.1", [0.0, 0.0], [8e-5, 3e-5])
    assert not _passes(golden, "hidden_states.1", [0.0, 3.0], [1e-4, 3e-5])


def test_which_outputs_are_sums(tmp_path):
    spec = Checkpoint.open(write_variant(tmp_path / "megatron", "megatron-bert")).spec
    sums = {name for names in spec.signatures().values() for name in names if is_sum(spec, name)}
    assert sums == {"logits", "hidden_states.0", "hidden_states.1", "hidden_states.2"}
    spec = Checkpoint.open(write_variant(tmp_path / "bert", "bert")).spec
    assert [name for name in spec.signatures()["hidden_states"] if is_sum(spec, name)] == ["logits"]


def test_which_outputs_are_a_layer_norms(tmp_path):
    def norms(variant):
        spec = Checkpoint.open(write_variant(tmp_path / variant, variant)).spec
        return {name: norm.name for name in spec.signatures()["hidden_states"] if (norm := norm_of(spec, name))}

    states = [f"hidden_states.{index}" for index in range(4)]
    layers = [f"bert.encoder.layer.{index}.output.LayerNorm" for index in range(3)]
    expected = dict(zip(states, ["bert.embeddings.LayerNorm", *layers], strict=True))
    assert norms("bert") == expected | {"last_hidden_state": layers[-1]}
    # MegatronBERT's other hidden states are sums; ELECTRA projects its embeddings after their LayerNorm.
    assert norms("megatron-bert") == dict.fromkeys([states[3], "last_hidden_state"], "bert.encoder.ln")
    assert list(norms("electra-generator")) == ["last_hidden_state", *states[1:]]
