"""The ids of 360Zhinao's tokenizer, against the tiktoken package."""

import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("tiktoken")

from tests.checkpoints import write_json
from tests.reading.importers.zhinao_folder import SPECIAL, make_reference, train_ranks, write_ranks
from yizhi.errors import InputError
from yizhi.reading.importers.tiktoken_vocab import read_tiktoken, split

GOLDEN = [
    "",
    "北京是中国的首都。",
    "It's what THEY'VE said, we'Ll see: 'Tis I'M 'reason",
    "2024年12月，①②Ⅷ 1,234.5",
    "a  b   c    d     e      f       g        h                 i",
    "   x \n\n  \r\n\t y  \u3000 z\u00a0\u2003",
    "第一行[br]第二行<br>第三行[BR]",
    "<|im_start|>user\n你好<|im_end|>\n<eod><pad><unk><mask><eop>",
    "[space2][space3] [space5]",
    "<p[br]ad> <  eod> [spa  ce2]",
    "e\u0301 n\u0303 ṩ क्षि 한국어 العربية 👨‍👩‍👧 🇨🇳 \U0001f469\U0001f3fd",
    "玄黄宇宙洪荒 qqqq qqqqq xqqqq zz zzz",
    "玄黄宇宙\nqqqq\n洪荒",  # words that are tokens, and that no merge gives
    "it's it\u017f it'\u017f 'ſ 'LL \u2019s",
    "\x00\x07\x85\u200b\u2028\ufeff\ue000\U0010fffd",
    "的" * 40 + "a" * 40 + " " * 40 + "!" * 40,
]


@pytest.fixture(scope="module")
def ranks():
    return train_ranks()


@pytest.fixture(scope="module")
def folder(ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zhinao")
    write_ranks(folder / "360.tiktoken", ranks)
    return folder


@pytest.fixture(scope="module")
def both(ranks, folder):
    """Our ids of a text, and tiktoken's."""
    tokenizer = read_tiktoken(folder / "360.tiktoken", folder).tokenizer
    return (lambda text: tokenizer.encode(text).ids), make_reference(ranks)


@pytest.mark.parametrize("text", GOLDEN)
def test_ids_are_tiktokens(both, text):
    ours, theirs = both
    assert ours(text) == theirs(text)


_PIECES = st.sampled_from(
    [
        *SPECIAL,
        "[br]",
        "<br>",
        " ",
        "  ",
        "\r\n",
        "\n",
        "\t",
        "'s",
        "'LL",
        "'ve",
        "1",
        "北京",
        "。",
        "e\u0301",
        "qqqq",
        "玄",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(_PIECES, st.text(max_size=6)), max_size=12).map("".join))
@example("'ſ")
def test_ids_are_tiktokens_of_any_text(both, text):
    ours, theirs = both
    assert ours(text) == theirs(text)


def test_a_text_comes_back(ranks, folder):
    """As the authors' class decodes: tokens for runs of spaces become these again."""
    text = read_tiktoken(folder / "360.tiktoken", folder)
    for given_text in ("北京  是   中国    的        首都。", "e\u0301 👨‍👩‍👧 it's"):
        assert text.tokenizer.decode(text.tokenizer.encode(given_text).ids) == given_text
    ids = text.tokenizer.encode("<|im_start|>a  b<|im_end|>").ids
    assert text.tokenizer.decode(ids) == "a  b"
    assert text.tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>a  b<|im_end|>"


def test_special_tokens_follow_the_ranks(ranks, folder):
    text = read_tiktoken(folder / "360.tiktoken", folder)
    assert [text.tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(ranks), len(ranks) + 11))
    assert (text.special["pad_token"], text.special["eos_token"], text.padding_side) == ("<pad>", "<eod>", "left")
    assert (text.frame.begin, text.frame.end, text.gives_types) == (0, 0, False)


def test_a_merge_is_the_last_step_to_its_token():
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4, b"abc": 5, b"xyz": 6}
    assert split(b"abc", ranks) == (b"a", b"bc")
    assert split(b"ab", ranks) == (b"a", b"b")
    assert split(b"a", ranks) is None
    assert split(b"xyz", ranks) is None


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda lines: [*lines, b"!!! 9"], "expected a token in base64, a space and a rank"),
        (lambda lines: [*lines, b"YQ=="], "expected a token in base64, a space and a rank"),
        (lambda lines: [*lines, b"YQ== -1"], "expected a token in base64, a space and a rank"),
        (lambda lines: [*lines, lines[5]], "has the token of rank 5 again"),
        (lambda lines: [*lines[:-1], lines[-1] + b"0"], "each once; the highest is"),
        (lambda lines: lines[1:], "each once; the highest is"),
        (lambda lines: [*lines, base64.b64encode(b"<pad>") + f" {len(lines)}".encode()], "<pad>: is among the ranks"),
        (lambda lines: [*lines, base64.b64encode(b"x" * 1025) + f" {len(lines)}".encode()], "of 1 to 1024 bytes"),
        (lambda lines: [], "expected a token for each byte; 256 have none"),
    ],
)
def test_a_damaged_file_is_refused(folder, tmp_path, alter, said):
    lines = (folder / "360.tiktoken").read_bytes().splitlines()
    (tmp_path / "x.tiktoken").write_bytes(b"\n".join(alter(lines)))
    with pytest.raises(InputError) as error:
        read_tiktoken(tmp_path / "x.tiktoken", tmp_path)
    assert any(said in fault for fault in error.value.faults)


def test_every_bad_line_is_named_up_to_twenty(tmp_path):
    (tmp_path / "x.tiktoken").write_bytes(b"x\n" * 1000)
    with pytest.raises(InputError) as error:
        read_tiktoken(tmp_path / "x.tiktoken", tmp_path)
    assert len(error.value.faults) == 21
    assert error.value.faults[-1].startswith("and 9")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "tokenizer_config.json",
            {"tokenizer_class": "QWenTokenizer"},
            "expected ZhinaoTokenizer; found 'QWenTokenizer'",
        ),
        ("tokenizer_config.json", {"eos_token": "<|im_end|>"}, "eos_token: expected <eod>"),
        ("tokenizer_config.json", {"additional_special_tokens": ["<x>"]}, "'<x>': expected no token beyond"),
        ("tokenizer_config.json", {"additional_special_tokens": 3}, "expected a list of tokens"),
        ("tokenizer_config.json", {"padding_side": "up"}, "padding_side: expected left or right"),
        ("special_tokens_map.json", {"pad_token": {"content": "<eod>"}}, "pad_token: expected <pad>"),
        ("special_tokens_map.json", {"additional_special_tokens": 5}, "expected a list of tokens"),
        ("special_tokens_map.json", {"added_tokens_decoder": None}, "added_tokens_decoder"),
        ("added_tokens.json", {"<x>": 600}, "'<x>': expected no token beyond"),
    ],
)
def test_settings_of_another_tokenizer_are_refused(ranks, tmp_path, name, content, said):
    write_ranks(tmp_path / "x.tiktoken", ranks)
    write_json(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        read_tiktoken(tmp_path / "x.tiktoken", tmp_path)
    assert any(fault.startswith(f"{name}: ") and said in fault for fault in error.value.faults)


def test_settings_that_say_the_same_are_taken(ranks, tmp_path):
    write_ranks(tmp_path / "x.tiktoken", ranks)
    said = {"tokenizer_class": None, "model_max_length": 77, "padding_side": "right", "pad_token": "<pad>"}
    write_json(tmp_path / "tokenizer_config.json", {**said, "additional_special_tokens": ["<|im_start|>"]})
    text = read_tiktoken(tmp_path / "x.tiktoken", tmp_path)
    assert (text.max_length, text.padding_side) == (77, "right")
