"""Comparing two runtimes on one awkward batch."""

import numpy as np

from yizhi.model.config import EncoderConfig
from yizhi.runtimes.base import Inputs, Outputs, Runtime

# Variants of tests.checkpoints that between them use every part of EncoderSpec.
ARCHITECTURES = (
    "bert",
    "bert-no-head",
    "bert-untied",
    "bert-relu",
    "albert-groups",
    "electra-generator",
    "electra-discriminator",
    "megatron-bert",
    "roformer",
    "modernbert",
)


def padded_batch(config: EncoderConfig, length: int = 21) -> Inputs:
    """Five rows: full, padded right, left and inside, and nothing but padding; two segments."""
    shape = (5, length)
    mask = np.ones(shape, int)
    mask[1, length // 2 :] = mask[2, : length // 3] = mask[3, 4:9] = mask[4] = 0
    ids = np.random.default_rng(1).integers(0, config.vocab_size, shape)
    return Inputs.of(ids, mask, np.broadcast_to(np.arange(length) > length // 3, shape).astype(int))


def run_everything(runtime: Runtime, inputs: Inputs) -> Outputs:
    """Every output of every signature; an output of several signatures must agree with itself."""
    found: Outputs = {}
    for outputs in runtime.signatures.values():
        for name, array in runtime.run(inputs, outputs).items():
            np.testing.assert_allclose(array, found.setdefault(name, array), rtol=1e-5, atol=1e-5, err_msg=name)
    return found


def assert_agree(found: Outputs, expected: Outputs, inputs: Inputs) -> None:
    """Within 1e-5 + 1e-5 · |expected| on real tokens, and finite on all."""
    assert found.keys() == expected.keys()
    real = inputs.attention_mask == 1
    for name, reference in expected.items():
        assert found[name].dtype == np.float32, name
        assert found[name].shape == reference.shape, name
        assert np.isfinite(found[name]).all(), name
        compared = real if reference.shape[:2] == real.shape else real.any(1)
        np.testing.assert_allclose(found[name][compared], reference[compared], rtol=1e-5, atol=1e-5, err_msg=name)
