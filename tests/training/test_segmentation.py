"""Words and their tokens."""

import sys

import pytest

from tests.checkpoints import open_tokenizer
from yizhi.errors import InputError
from yizhi.reading.tokenizer_files import SPECIAL_TOKENS
from yizhi.training.segmentation import WordNumberer, open_segmenter

VOCAB = [
    *SPECIAL_TOKENS,
    *"使用语言模型来预测下一个词的，。",
    "pro",
    "##ba",
    "##bility",
    "3",
    ".",
    "14",
    "deep",
    "model",
]


def number(text, words):
    tokenizer = open_tokenizer(VOCAB, 64)
    row = tokenizer.tokenize([text])[0]
    numbers = WordNumberer(VOCAB, tokenizer.special_ids)(text, words, row)
    return [(VOCAB[index], int(found)) for index, found in zip(row.ids, numbers, strict=True)]


def test_each_character_has_its_word_s_number():
    found = number("使用语言模型。", ["使用", "语言", "模型", "。"])
    assert found == [
        ("[CLS]", -1),
        *zip("使用语言模型。", [0, 0, 1, 1, 2, 2, 3], strict=True),
        ("[SEP]", -1),
    ]


def test_pieces_stay_together_whatever_the_segmenter_says():
    found = number("的probability", ["的", "prob", "ability"])
    assert found[1:-1] == [("的", 0), ("pro", 1), ("##ba", 1), ("##bility", 1)]


def test_a_word_may_have_several_tokens_and_spaces():
    assert [n for _, n in number("3.14 的", ["3.14", "的"])] == [-1, 0, 0, 0, 1, -1]
    assert [n for _, n in number("Deep model", ["Deep model"])] == [-1, 0, 0, -1]


def test_a_word_with_an_unknown_character_cannot_be_chosen():
    assert number("语囧言的", ["语囧言", "的"]) == [
        ("[CLS]", -1),
        ("语", -1),
        ("[UNK]", -1),
        ("言", -1),
        ("的", 1),
        ("[SEP]", -1),
    ]


def test_a_mask_in_the_text_is_not_chosen():
    assert [n for _, n in number("语[MASK]的", ["语", "[MASK]", "的"])] == [-1, 0, -1, 2, -1]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["使用", "模型"], "expected the text after '使用'; found '模型'"),
        (["使用"], "no word covers '语言'"),
        (["使用", "语", "言言"], "expected the text after '使用语'; found '言言'"),
        (["使用", 3], "strings; found 3"),
    ],
)
def test_words_must_be_the_text_s(words, fault):
    with pytest.raises(InputError, match=fault):
        number("使用语言", words)


def test_spaces():
    assert open_segmenter("spaces")("使用 语言\t模型") == ["使用", "语言", "模型"]


def test_jieba():
    pytest.importorskip("jieba")
    assert list(open_segmenter("jieba")("我爱北京天安门")) == ["我", "爱", "北京", "天安门"]


def test_a_function_of_your_own(tmp_path, monkeypatch):
    (tmp_path / "my_segmenter.py").write_text(
        "def pairs(text):\n    return [text[i:i + 2] for i in range(0, len(text), 2)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert open_segmenter("my_segmenter:pairs")("使用语言模型") == ["使用", "语言", "模型"]
    sys.modules.pop("my_segmenter")


@pytest.mark.parametrize("name", ["ltp", "no_such_module:cut", "json:cut", "json:__name__", ":f"])
def test_a_segmenter_that_is_none(name):
    with pytest.raises(InputError, match="`segmenter`"):
        open_segmenter(name)
