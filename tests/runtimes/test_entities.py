"""Entities of tag sequences, well-formed or not, are those that seqeval finds."""

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities

from yizhi.runtimes import TagScheme

BIO = ["O", *(f"{place}-{label}" for label in ("人", "地", "a-b") for place in "BI")]
BIOES = ["O", *(f"{place}-{label}" for label in ("人", "地", "a-b") for place in "BIES")]


@pytest.mark.parametrize("labels", [BIO, BIOES, ["O", "I-人", "I-地"], list("BIESO"), ["O", "B-", "I-"]])
def test_any_sequence_has_the_entities_of_seqeval(labels):
    scheme = TagScheme(labels)
    rng = np.random.default_rng(0)
    for _ in range(400):
        tags = [labels[index] for index in rng.integers(0, len(labels), rng.integers(0, 14))]
        expected = [(label, begin, end + 1) for label, begin, end in get_entities(tags)]
        assert scheme.find_entities(tags) == expected, tags


@pytest.mark.parametrize(
    ("labels", "tags", "expected"),
    [
        (BIO, "B-人 I-地 I-地", [("人", 0, 1), ("地", 1, 3)]),
        (BIO, "O I-人 I-人 O", [("人", 1, 3)]),
        (BIO, "B-人 B-人 I-人", [("人", 0, 1), ("人", 1, 3)]),
        (BIOES, "S-人 I-人 E-人 E-人", [("人", 0, 1), ("人", 1, 3), ("人", 3, 4)]),
        (BIOES, "B-人 E-人 O B-地 I-地", [("人", 0, 2), ("地", 3, 5)]),
        (["B-人", "M-人", "E-人", "S-人", "O"], "B-人 M-人 E-人 S-人 M-人", [("人", 0, 3), ("人", 3, 4), ("人", 4, 5)]),
        (["B-人", "I-人", "L-人", "U-人", "O"], "B-人 L-人 U-人 L-人", [("人", 0, 2), ("人", 2, 3), ("人", 3, 4)]),
        (list("BMES"), "B M E S B E", [("_", 0, 3), ("_", 3, 4), ("_", 4, 6)]),
        # Plain tags; and a letter before a hyphen is part of the name where nothing says otherwise.
        (["O", "人", "地"], "人 人 地 O 地", [("人", 0, 2), ("地", 2, 3), ("地", 4, 5)]),
        (["O", "E-mail", "S-Bahn"], "E-mail E-mail S-Bahn", [("E-mail", 0, 2), ("S-Bahn", 2, 3)]),
        (["O", "B-人", "I-人", "X"], "X X B-人 X", [("X", 0, 2), ("人", 2, 3), ("X", 3, 4)]),
        (["O", "B", "C"], "B B C", [("B", 0, 2), ("C", 2, 3)]),
    ],
)
def test_schemes(labels, tags, expected):
    assert TagScheme(labels).find_entities(tags.split()) == expected
