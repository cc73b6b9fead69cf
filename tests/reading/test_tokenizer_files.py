"""The tokenizer's files carry it to other programs, and give the ids that others published."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.checkpoints import VOCAB
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.tokenizer_files import TextTokenizer

CASES = {"cased": False, "lower": True}


def open_text(folder: Path, vocab: bytes, do_lower_case: bool) -> TextTokenizer:
    (folder / "vocab.txt").write_bytes(vocab)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": do_lower_case}))
    return read_tokenizer(folder)


@pytest.mark.parametrize("case", CASES)
def test_golden_ids(shared_data, tmp_path, case):
    published = (shared_data / "vocab" / "vocab.txt").read_bytes()
    goldens = shared_data / "reference" / "tokenizer_goldens.json"
    samples = json.loads(goldens.read_text(encoding="utf-8"))["samples"]
    expected = {sample["text"]: sample[case] for sample in samples if case in sample}
    assert len(expected) >= 8
    ours = open_text(tmp_path, published, CASES[case])
    assert {text: ours.tokenizer.encode(text).ids for text in expected} == expected
    # Entries 343 and 13502 hold U+2028, which splits words: they are never used, and must hold their places.
    assert ours.tokenizer.encode("的\u2028的").ids == ours.tokenizer.encode("的 的").ids
    assert (ours.mask_id, len(ours.vocab)) == (103, 21128)
    assert ours.files(512)["vocab.txt"].encode() == published


def test_offsets_point_into_the_text_as_it_was_given(tmp_path):
    text = "\x00He\u0301llo\u200b的 [MASK]，world"
    ours = open_text(tmp_path, "".join(f"{entry}\n" for entry in VOCAB).encode(), True)
    encoding = ours.tokenizer.encode(text)
    spans = dict(zip(encoding.tokens, encoding.offsets, strict=True))
    assert [text[slice(*spans[token])] for token in ("hello", "的", "[MASK]", "，", "world")] == [
        "He\u0301llo",
        "的",
        "[MASK]",
        "，",
        "world",
    ]


@pytest.mark.parametrize("case", CASES)
def test_files_carry_the_tokenizer_to_transformers(make_checkpoint, tmp_path, case):
    choice = {"do_lower_case": CASES[case], "strip_accents": None, "tokenize_chinese_chars": True}
    source = make_checkpoint(tokenizer_config={**choice, "model_max_length": 10**30})
    with Checkpoint.open(source) as checkpoint:
        ours, files = checkpoint.text, checkpoint.text.files(64)
    folder = tmp_path / "artifact"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())

    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.is_fast
    assert loaded.model_max_length == 64
    assert (loaded.mask_token_id, loaded.pad_token_id) == (4, 0)
    for text in ("Hello 的[MASK]，worlds e\u0301", "Ａ的\U0002b820的\uf900", ""):
        assert loaded(text)["input_ids"] == ours.tokenizer.encode(text).ids
    assert json.loads(files["tokenizer_config.json"]).items() >= choice.items()


def test_files_are_the_same_bytes_each_time(make_checkpoint):
    folder = make_checkpoint()
    with Checkpoint.open(folder) as one, Checkpoint.open(folder) as other:
        assert one.text.files(64) == other.text.files(64)
