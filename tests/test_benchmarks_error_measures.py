"""The table of docs/gates.md: both measures are of the same errors, and the gate's is the wider."""

from benchmarks.error_measures import TARGETS, measure
from tests.checkpoints import small_config


def test_both_measures_of_one_model(tmp_path):
    found = measure(small_config(vocab_size=300), 0, tmp_path)
    assert found.keys() == TARGETS.keys()
    for by_element, by_terms in found.values():
        assert 0 < by_terms < by_element
        assert by_terms < 1
