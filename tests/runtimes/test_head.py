"""The head alone gives the logits that a whole pass gives, and verification notices where it does not."""

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.targets import TARGETS, MissingFramework
from parity_tests.golden import Golden
from parity_tests.verify import verify
from runtimes import open_runtime
from tests.agreement import padded_batch
from tests.artifacts import export_artifact

POSITIONS = np.array([[3, 20], [0, 0], [1, 2], [0, 7], [0, 0]])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", ["bert", "bert-untied", "albert"])
def test_logits_at_positions_are_those_of_the_whole_pass(make_checkpoint, tmp_path, target, variant):
    with Checkpoint.open(make_checkpoint(variant)) as checkpoint:
        try:
            runtime = open_runtime(export_artifact(checkpoint, target, tmp_path / target))
        except MissingFramework as missing:
            pytest.skip(str(missing))
        with runtime:
            inputs = padded_batch(checkpoint.config)
            whole = runtime.run(inputs, ["logits"])["logits"][tuple(POSITIONS.T)]
            found = runtime.logits_at(inputs, POSITIONS)
            assert found.dtype == np.float32
            if TARGETS[target].precision == "int8":
                np.testing.assert_array_equal(found, whole)
            else:
                np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)

            if variant == "bert":
                run_head = runtime.run_head
                runtime.run_head = lambda states: run_head(states)[:, ::-1].copy()
                verdict = verify(runtime, Golden.make(checkpoint), TARGETS[target].precision)
                assert any("logits" in fault or "agreement" in fault for fault in verdict.faults)
