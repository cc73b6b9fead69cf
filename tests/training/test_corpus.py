"""Text to sequences."""

import pytest

from tests.checkpoints import open_tokenizer, small_config, unigram_tokenizer, write_json, write_tokenizer
from yizhi.errors import InputError
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.tokenizer_files import SPECIAL_TOKENS
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.training.corpus import pack, read_corpus

VOCAB = [*SPECIAL_TOKENS, *"一二三四五六七八九十，。"]


def read(folder, *texts, segment=str.split):
    tokenizer = open_tokenizer(VOCAB, 64)
    paths = []
    for number, text in enumerate(texts):
        paths.append(folder / f"{number}.txt")
        paths[-1].write_bytes(text.encode() if isinstance(text, str) else text)
    return read_corpus(paths, tokenizer, segment)


def spell(corpus, begin=0, end=None):
    return "".join(VOCAB[index] for index in corpus.ids[begin:end])


def test_lines_words_and_documents(tmp_path):
    corpus = read(tmp_path, "一二 三\n四 五六\n\n\n七\n", "八 九十\n")
    assert spell(corpus) == "一二三四五六七八九十"
    assert corpus.words.tolist() == [0, 0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert corpus.lines.tolist() == [0, 3, 6, 7, 10]
    assert corpus.documents.tolist() == [0, 2, 3, 4]
    assert corpus.text_words == {"一二", "三", "四", "五六", "七", "八", "九十"}


def test_what_must_not_be_masked(tmp_path):
    assert read(tmp_path, "一囧 二\n").words.tolist() == [-1, -1, 1]


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (["", "\n \n"], "no text"),
        (["一 二\n", b"\xff\n"], r"1\.txt, line 1: is not UTF-8"),
    ],
)
def test_text_that_cannot_be_used(tmp_path, texts, fault):
    with pytest.raises(InputError, match=fault):
        read(tmp_path, *texts)


def test_every_line_with_other_words_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path, "一二\n三\n四五\n", segment=lambda text: [text[0]])
    assert [fault.rpartition("/")[2] for fault in caught.value.faults] == [
        "0.txt, line 1: '一二': no word covers '二'",
        "0.txt, line 3: '四五': no word covers '五'",
    ]


def pieces(corpus, room, **options):
    return [
        tuple(
            spell(corpus, begin, end)
            for begin, end in zip((piece.first, *piece.breaks), (*piece.breaks, piece.last), strict=True)
        )
        for piece in pack(corpus, room, **options)
    ]


def test_lines_are_packed_inside_their_document(tmp_path):
    corpus = read(tmp_path, "一二\n三\n四五\n\n六\n七\n")
    assert pieces(corpus, 5) == [("一二", "三", "四五"), ("六", "七")]
    assert pieces(corpus, 4) == [("一二", "三"), ("四五",), ("六", "七")]
    assert pieces(corpus, 64, line_by_line=True) == [("一二",), ("三",), ("四五",), ("六",), ("七",)]


def test_long_lines_are_cut(tmp_path):
    corpus = read(tmp_path, "一二\n三四五六七八九十\n一\n")
    assert pieces(corpus, 3) == [("一二",), ("三四五",), ("六七八",), ("九十", "一")]
    assert pieces(corpus, 4) == [("一二",), ("三四五六",), ("七八九十",), ("一",)]
    assert pieces(corpus, 3, line_by_line=True)[-2:] == [("九十",), ("一",)]


def test_words_of_a_tokenizer_whose_pieces_hold_spaces(tmp_path):
    """A piece with a space before it is of the word after the space, and a space alone is of none."""
    write_json(tmp_path / "config.json", {**small_config(), "model_type": "xlm-roberta"})
    made = unigram_tokenizer()
    write_tokenizer(tmp_path, made, "XLMRobertaTokenizer")
    text = tmp_path / "text.txt"
    text.write_text("北京 hello world x\n", encoding="utf-8")
    corpus = read_corpus([text], Tokenizer(read_tokenizer(tmp_path), 64), str.split)
    tokens = [made.id_to_token(index) for index in corpus.ids.tolist()]
    assert tokens == ["▁北京", "▁hello", "▁world", "▁", "x"]
    assert corpus.words.tolist() == [0, 1, 2, -1, 3]
