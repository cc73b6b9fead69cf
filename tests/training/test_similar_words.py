"""Similar words: from a list, from vectors, and only those that fit."""

import numpy as np
import pytest

from tests.checkpoints import open_tokenizer
from yizhi.errors import InputError
from yizhi.reading.tokenizer_files import SPECIAL_TOKENS
from yizhi.training.similar_words import build_lexicon, find_neighbours, read_similar_words, read_vectors

VOCAB = [*SPECIAL_TOKENS, *"今明后天昨日早晨好坏"]


@pytest.fixture
def tokenizer():
    return open_tokenizer(VOCAB, 64)


def test_a_list(tmp_path):
    (tmp_path / "similar.txt").write_text("今天\t明天 后天\n\n好 坏\n")
    assert read_similar_words(tmp_path / "similar.txt") == {"今天": ["明天", "后天"], "好": ["坏"]}


def test_every_bad_line_of_a_list_is_named(tmp_path):
    (tmp_path / "similar.txt").write_text("今天 明天\n好\n今天 后天\n")
    with pytest.raises(InputError) as caught:
        read_similar_words(tmp_path / "similar.txt")
    assert caught.value.faults == [
        "line 2: '好' has no similar words",
        "line 3: expected one line for each word; '今天' has two",
    ]


@pytest.mark.parametrize("header", ["", "3 2\n"])
def test_vectors(tmp_path, header):
    (tmp_path / "vectors.txt").write_text(f"{header}今天 1 0.5\n明天 1 0 \n好 -1 2e-1\n")
    words, vectors = read_vectors(tmp_path / "vectors.txt")
    assert words == ["今天", "明天", "好"]
    assert vectors.tolist() == np.float32([[1, 0.5], [1, 0], [-1, 0.2]]).tolist()
    assert read_vectors(tmp_path / "vectors.txt", limit=2)[0] == words[:2]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("今天 1 2\n明天 1\n", "line 2: '明天': expected 2 finite numbers; found 1"),
        ("今天 1 x\n", "line 1: '今天': expected numbers; found '1 x'"),
        ("今天 1 nan\n", "line 1: '今天': expected finite numbers"),
        ("", "no words"),
        ("2 5\n", "no words"),
    ],
)
def test_bad_vectors(tmp_path, text, fault):
    (tmp_path / "vectors.txt").write_text(text)
    with pytest.raises(InputError, match=fault):
        read_vectors(tmp_path / "vectors.txt")


def test_neighbours_are_those_of_the_largest_cosine():
    rng = np.random.default_rng(0)
    words = [a + b for a in "今明后昨早晨好坏" for b in "天日早晨"] + ["今", "明"]
    vectors = rng.normal(size=(len(words), 5)).astype(np.float32)
    found = find_neighbours(words, vectors, {"今天", "坏晨", "明", "没有"}, count=3)
    assert found.keys() == {"今天", "坏晨", "明"}
    for word in ("今天", "坏晨"):
        place = words.index(word)
        cosines = {
            other: vector @ vectors[place] / np.linalg.norm(vector)
            for other, vector in zip(words, vectors, strict=True)
            if other != word and len(other) == 2
        }
        assert set(found[word]) == set(sorted(cosines, key=cosines.get)[-3:])
    assert found["明"] == ["今"]


def test_a_lexicon_holds_words_that_fit(tokenizer):
    similar = {"今天": ["明天", "后", "昨日", "囧天", "今天"], "好": ["早晨"], "晚上": ["早晨"]}
    lexicon = build_lexicon(tokenizer, ["今天", "好", "坏", "囧"], similar)
    spell = lambda word: tuple(VOCAB.index(character) for character in word)  # noqa: E731
    # Of another length, not to be spelled, or the word itself: left out. 好 has then none.
    assert {word: list(map(tuple, ids)) for word, ids in lexicon.similar.items()} == {
        spell("今天"): [spell("明天"), spell("昨日")]
    }
    assert {length: list(map(tuple, ids)) for length, ids in lexicon.random.items()} == {
        2: [spell("今天")],
        1: [spell("好"), spell("坏")],
    }
