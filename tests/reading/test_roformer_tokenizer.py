"""RoFormer's tokenizer: jieba's words that the vocabulary has, as transformers cuts them."""

import builtins
import json

import pytest
from transformers import AutoTokenizer, RoFormerTokenizerFast

from tests.checkpoints import VOCAB, small_config, write_json
from tests.reading.tokenizer_folders import make_texts, pairs
from yizhi.errors import InputError
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.sentences import CHINESE, ENGLISH

ENTRIES = [*VOCAB, "北京", "中国", "首都", "服务", "hello", "天气", "今天", "非常", "##京", "机器学习"]
ENTRIES = list(dict.fromkeys(ENTRIES))
TEXTS = [
    *(
        "今天北京天气非常好。",
        "北京是[MASK]国的首都 Hello",
        "机器学习服务  中国\n首都",
        "",
        " ",
        "ＡＢＣ①中国",
        "a\u200b北京\u0301京",
    ),
    *(CHINESE[:8] + ENGLISH[:3]),
]


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "config.json", {**small_config(vocab_size=len(ENTRIES)), "model_type": "roformer"})
    (tmp_path / "vocab.txt").write_text("".join(f"{entry}\n" for entry in ENTRIES), encoding="utf-8")
    return tmp_path


def compare(folder) -> None:
    ours, theirs = read_tokenizer(folder).tokenizer, AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__.startswith("RoFormer")
    for text, other in pairs([*TEXTS, *make_texts("roformer", 60)]):
        expected = theirs(text, return_offsets_mapping=True)
        found = ours.encode(text)
        assert (found.ids, found.offsets) == (expected["input_ids"], expected["offset_mapping"]), text
        both, expected = ours.encode(text, other), theirs(text, other)
        assert (both.ids, both.type_ids) == (expected["input_ids"], expected["token_type_ids"])


def test_ids_are_those_of_transformers(folder):
    compare(folder)
    assert "北京" in read_tokenizer(folder).tokenizer.encode("今天北京").tokens
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "RoFormerTokenizer", "do_lower_case": False})
    compare(folder)


def test_as_transformers_saves_it(folder):
    RoFormerTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "tokenizer.json").exists()
    compare(folder)


def test_an_artifact_says_it_and_is_read_alike(folder, tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    found = read_tokenizer(folder)
    files = found.files(64)
    assert json.loads(files["tokenizer_config.json"])["tokenizer_class"] == "RoFormerTokenizer"
    assert found.describe()["words"] == "jieba's (rjieba)"
    for name, text in {**files, "config.json": (folder / "config.json").read_text()}.items():
        (artifact / name).write_text(text, encoding="utf-8")
    compare(artifact)
    assert read_tokenizer(artifact).files(64) == files


def test_bert_s_own_class_cuts_characters(folder):
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    assert read_tokenizer(folder).tokenizer.encode("北京").tokens == ["[CLS]", "北", "京", "[SEP]"]


def test_without_rjieba(folder, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "rjieba":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="pip install"):
        read_tokenizer(folder)
