"""One opened artifact serves several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.artifacts import EVERY_TARGET, export_artifact
from yizhi.converters.targets import MissingFramework
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Embedder, FillMask, open_runtime

TEXTS = ["[MASK]", "这个[MASK]很[MASK]。", "北京是[MASK]国的首都。", "你" * 20 + "[MASK]"]


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_answers_are_the_same_from_several_threads(make_checkpoint, tmp_path, target):
    try:
        with Checkpoint.open(make_checkpoint()) as checkpoint:
            runtime = open_runtime(export_artifact(checkpoint, target, tmp_path / target))
    except MissingFramework as missing:
        pytest.skip(str(missing))
    with runtime:
        fill, embed = FillMask(runtime), Embedder(runtime)

        def answer(number):
            text = TEXTS[number % len(TEXTS)]
            return [[(p.token, p.score) for p in mask] for mask in fill(text)], embed([text])

        def agree(found, expected):
            assert [[token for token, _ in mask] for mask in found[0]] == [[t for t, _ in mask] for mask in expected[0]]
            np.testing.assert_allclose(found[1], expected[1], atol=1e-6)

        with ThreadPoolExecutor(4) as pool:  # also the first calls, when sessions are opened and layers compiled
            together = list(pool.map(answer, range(16)))
        expected = [answer(number) for number in range(len(TEXTS))]
        for number, found in enumerate(together):
            agree(found, expected[number % len(TEXTS)])
