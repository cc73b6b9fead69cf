"""The files that docs/distillation.md begins with are what its text says."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.distillation import read_passages, split
from yizhi.training.tasks.faults import Faults
from yizhi.training.tasks.tagging import Sentence, TaggingReader


def make(word, tag):
    return Sentence(Path("a"), 1, (word,), (tag,))


def test_words_become_tags_of_characters(tmp_path):
    sentences = [make("%", "SYM"), *[make("北京", "PROPN")] * 3, *[make("花", "X")] * 7, make("%", "DET")]
    parts = split(sentences)
    for name, content in parts.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    found = {name: TaggingReader().read(tmp_path / name, Faults()) for name in parts}
    assert [sentence.tags for sentence in found["train.txt"]] == [("B-PROPN", "I-PROPN"), *[("B-X",)] * 6]
    assert [sentence.tokens for sentence in found["test.txt"]] == [("北", "京")] * 2  # and none tagged DET
    assert [sentence.tags for sentence in found["dev.txt"]] == [("B-X",), ("B-X",)]


def test_passages_become_sentences(tmp_path):
    paragraphs = [{"context": "北京好。\n天气好！花"}, {"context": "。"}]
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    assert read_passages(tmp_path / "a.json") == ["北京好。", "天气好！", "花", "。"]
