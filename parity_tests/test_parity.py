"""Every family × every target: exported, opened with its own framework, and held to the gates."""

import pytest

from converters.checkpoint import Checkpoint
from converters.targets import TARGETS, MissingFramework
from parity_tests.golden import Golden
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
