"""What benchmarks/training.py compares, counted in tokens, which no busy machine changes."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.training import fixed, grouped, read
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.training.tasks.faults import Faults

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("corpus", "max_length", "most"), [("zh_gsdsimp-ud-dev.conllu", 128, 0.45), ("cmrc2018_trial.json", 512, 0.9)]
)
def test_length_grouping_leaves_little_padding(shared_data, corpus, max_length, most):
    task, examples = read(shared_data / "corpora" / corpus)
    tokenizer = Tokenizer.open(shared_data / "checkpoints" / "zh-mini")
    tokenizer.max_length = max_length
    features = task.encode(examples[:320], tokenizer, Faults())
    real = sum(feature.length for feature in features)

    def count(batches):
        return sum(len(batch) * max(feature.length for feature in batch) for batch in batches)

    dynamic, together = count(fixed(features, 16)), count(grouped(features, 16))
    assert real <= together < dynamic <= len(features) * max_length
    assert together < real * 1.1
    assert together < most * len(features) * max_length
    assert sum(map(len, grouped(features, 16))) == len(features)


def test_universal_dependencies_are_plain_tags(shared_data):
    task, examples = read(shared_data / "corpora" / "zh_gsdsimp-ud-dev.conllu")
    assert not task.has_entities
    assert {"NOUN", "VERB", "PUNCT"} <= set(task.labels)
    assert len(examples) == 500
