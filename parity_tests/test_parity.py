"""Every family × every target: exported, opened with its own framework, and held to the gates."""

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.targets import TARGETS, MissingFramework
from parity_tests.compare import compare
from parity_tests.golden import Golden
from parity_tests.tolerances import FloatTolerance
from parity_tests.verify import verify
from runtimes import open_runtime
from tests.artifacts import export_artifact
from tests.checkpoints import write_variant

# One of each shape that a forward pass can take; the other variants differ in their files alone.
SUBJECTS = (
    "bert",
    "bert-no-head",
    "bert-untied",
    "albert-groups",
    "electra-generator",
    "electra-discriminator",
    "megatron-bert",
    "bert-classifier",
    "albert-tagger",
    "electra-regression",
    "electra-reader",
)


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = Checkpoint.open(write_variant(folder / "checkpoint", request.param))
    return checkpoint, Golden.make(checkpoint), folder


@pytest.mark.parametrize("target", TARGETS)
def test_artifact_meets_the_gates(subject, target):
    checkpoint, golden, folder = subject
    try:
        artifact = export_artifact(checkpoint, target, folder / target)
        with open_runtime(artifact) as runtime:
            verdict = verify(runtime, golden, TARGETS[target].precision)
    except MissingFramework as missing:
        pytest.skip(str(missing))
    assert verdict.passed, "\n".join(verdict.faults)


def test_sums_are_measured_against_their_vector():
    """A value near 0 in a long sum errs as the sum's largest terms do; after LayerNorm it may not."""
    tolerance = FloatTolerance(1e-5, 1e-5, "")
    reference = np.array([[80.0, 0.0]], np.float32)
    found = reference + np.float32(1e-4)
    assert compare("", "", "hidden_states.1", found, reference, tolerance, is_sum=True).passed
    assert not compare("", "", "hidden_states.1", found, reference, tolerance, is_sum=False).passed


def test_which_outputs_are_sums(tmp_path):
    spec = Checkpoint.open(write_variant(tmp_path / "megatron", "megatron-bert")).spec
    sums = {name for names in spec.signatures().values() for name in names if spec.is_sum(name)}
    assert sums == {"logits", "hidden_states.0", "hidden_states.1", "hidden_states.2"}
    spec = Checkpoint.open(write_variant(tmp_path / "bert", "bert")).spec
    assert [name for name in spec.signatures()["hidden_states"] if spec.is_sum(name)] == ["logits"]
