"""Masking: the papers' figures, whole words, and nothing where nothing may be."""

import numpy as np
import pytest

from yizhi.training.masking import (
    ACTIONS,
    IGNORED,
    KEPT,
    MASK,
    RANDOM,
    SCHEMES,
    SIMILAR,
    WANTING,
    Lexicon,
    Masker,
    Statistics,
    mark_words,
)

MASK_ID = 4
# Ordinary tokens are 100 … 999; random ones 5000 … 5999; similar words are the word + 1000 or + 2000.
RANDOM_IDS = np.arange(5000, 6000)
# MacBERT's, of runs of 1 to 4 words.
SHARES = [0.4, 0.3, 0.2, 0.1]


def make_text(words=75, segments=2, seed=0):
    """Ids and word numbers of `segments` stretches of words of 1 to 3 tokens, between special tokens."""
    rng = np.random.default_rng(seed)
    ids, numbers, number = [2], [-1], 0
    for _ in range(segments):
        for _ in range(words):
            length = int(rng.choice([1, 2, 3], p=[0.5, 0.4, 0.1]))
            ids += rng.integers(100, 1000, length).tolist()
            numbers += [number] * length
            number += 1
        ids.append(3)
        numbers.append(-1)
    return np.array(ids), np.array(numbers)


def make_lexicon(ids, words, share=1.0):
    """Two similar words for each word of the text (or for a share of them), and random words 7000 … by length."""
    similar = {}
    for number in range(int(words.max() + 1)):
        word = ids[words == number]
        if number % 100 < share * 100:
            similar[tuple(word.tolist())] = np.stack([word + 1000, word + 2000])
    random = {length: np.arange(7000, 7000 + 10 * length).reshape(-1, length) for length in (1, 2, 3)}
    return Lexicon(random, similar)


def mask_often(scheme, times=1500, words=75, segments=2, share=1.0):
    """Masked sequences of one text, and the statistics over them."""
    ids, numbers = make_text(words, segments)
    masker = Masker(SCHEMES[scheme], MASK_ID, RANDOM_IDS, make_lexicon(ids, numbers, share))
    statistics, masked = Statistics(SCHEMES[scheme]), []
    for seed in range(times):
        masked.append(masker(ids, numbers, np.random.default_rng(seed)))
        statistics.add(masked[-1], numbers)
    return ids, numbers, masked, statistics


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rates_are_the_papers(scheme):
    _, _, _, statistics = mask_often(scheme)
    rows = {name: (found, paper) for name, found, paper in statistics.rows()}
    expected = {"words chosen" if scheme != "bert" else "tokens chosen": 0.15}
    expected |= {"similar word" if scheme == "macbert" else "[MASK]": 0.8, "random": 0.1, "unchanged": 0.1}
    if scheme in ("ngram", "macbert"):
        expected |= {f"runs of {size} word{'s' * (size > 1)}": share for size, share in enumerate(SHARES, start=1)}
    for name, share in expected.items():
        assert rows[name] == (pytest.approx(share, abs=0.006), pytest.approx(share)), name
    beyond = {name: found for name, (found, paper) in rows.items() if paper is None}
    assert beyond == {name: pytest.approx(0.15 if "chosen" in name else 0.0, abs=0.006) for name in beyond}


@pytest.mark.parametrize("words", [14, 27, 40])
def test_the_rates_do_not_depend_on_the_length(words):
    _, _, _, statistics = mask_often("ngram", times=3000, words=words, segments=1)
    shares = {name: found for name, found, _ in statistics.rows()}
    assert shares["words chosen"] == pytest.approx(0.15, abs=0.006)
    assert [shares[name] for name in shares if name.startswith("runs")] == pytest.approx(SHARES, abs=0.02)


@pytest.mark.parametrize("scheme", ["wwm", "ngram", "macbert"])
def test_words_are_chosen_whole(scheme):
    _, words, masked, _ = mask_often(scheme, times=100)
    for one in masked:
        chosen = one.labels != IGNORED
        for number in range(words.max() + 1):
            assert len(set(chosen[words == number])) == 1


def test_tokens_are_chosen_alone():
    _, words, masked, _ = mask_often("bert", times=20)
    apart = sum(
        len(set((one.labels != IGNORED)[words == number].tolist())) > 1
        for one in masked
        for number in range(words.max() + 1)
    )
    assert apart > 50


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_what_was_chosen_changes(scheme):
    ids, words, masked, _ = mask_often(scheme, times=100, share=0.5)
    for one in masked:
        chosen = one.labels != IGNORED
        assert (one.labels[chosen] == ids[chosen]).all()
        assert (one.ids[~chosen] == ids[~chosen]).all()
        assert not chosen[words < 0].any()
        assert ((one.actions >= 0) == chosen).all()
        assert (one.ids[one.actions == KEPT] == ids[one.actions == KEPT]).all()
        assert (one.ids[one.actions == MASK] == MASK_ID).all()
        drawn = one.ids[one.actions == RANDOM]
        assert ((drawn >= 7000) if scheme == "macbert" else ((drawn >= 5000) & (drawn < 6000))).all()


def test_runs_do_not_overlap_nor_leave_their_segment():
    ids, words, masked, _ = mask_often("ngram", times=200, words=12, segments=6)
    for one in masked:
        covered = np.zeros(len(ids), int)
        for first, last, size in one.runs:
            covered[first:last] += 1
            assert (words[first:last] >= 0).all()
            assert len(set(words[first:last])) == size
            assert words[first - 1] != words[first]
            assert words[last] != words[last - 1]
        assert (covered == (one.labels != IGNORED)).all()


def test_similar_words_stand_for_whole_words():
    ids, words, masked, _ = mask_often("macbert", times=100)
    seen = set()
    for one in masked:
        assert MASK_ID not in one.ids
        for number in np.unique(words[one.actions == SIMILAR]):
            shift = set((one.ids - ids)[words == number].tolist())
            assert len(shift) == 1
            seen |= shift
    assert seen == {1000, 2000}


def test_a_word_without_similar_ones_becomes_a_random_word():
    _, words, masked, statistics = mask_often("macbert", times=500, share=0.5)
    shares = {name: found for name, found, _ in statistics.rows()}
    # 100 of the 150 words, numbers 0-49 and 100-149, have similar ones.
    assert shares[ACTIONS[SIMILAR]] == pytest.approx(0.8 * 2 / 3, abs=0.02)
    assert shares[ACTIONS[WANTING]] == pytest.approx(0.8 / 3, abs=0.02)
    assert shares[ACTIONS[RANDOM]] == pytest.approx(0.1, abs=0.01)
    for one in masked:
        assert (one.ids[one.actions == WANTING] >= 7000).all()
        assert ((words[one.actions == WANTING] >= 50) & (words[one.actions == WANTING] < 100)).all()


def test_a_length_without_random_words_gets_random_tokens():
    ids, words = make_text()
    masker = Masker(SCHEMES["macbert"], MASK_ID, RANDOM_IDS, Lexicon())
    masked = masker(ids, words, np.random.default_rng(0))
    replaced = np.isin(masked.actions, [RANDOM, WANTING])
    assert replaced.any()
    assert (masked.ids[replaced] >= 5000).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_generator_decides_all(scheme):
    ids, words = make_text()
    masker = Masker(SCHEMES[scheme], MASK_ID, RANDOM_IDS, make_lexicon(ids, words))
    first, again, other = (masker(ids, words, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.ids == again.ids).all()
    assert (first.labels == again.labels).all()
    assert (first.labels != other.labels).any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_word_is_chosen_of_a_short_text_and_none_of_an_empty_one(scheme):
    masker = Masker(SCHEMES[scheme], MASK_ID, RANDOM_IDS)
    for seed in range(20):
        masked = masker(np.array([2, 100, 101, 3]), np.array([-1, 0, 1, -1]), np.random.default_rng(seed))
        assert (masked.labels != IGNORED).sum() >= 1
        empty = masker(np.array([2, 3]), np.array([-1, -1]), np.random.default_rng(seed))
        assert empty.ids.tolist() == [2, 3]
        assert (empty.labels == IGNORED).all()


def test_words_are_marked_as_in_the_wwm_paper():
    tokens = ["[CLS]", *"使用语言模型来预测下一个词的", "pro", "##ba", "##bility", "[SEP]"]
    words = np.array([-1, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 9, 9, 9, -1])
    assert " ".join(mark_words(tokens, words)[1:-1]) == (
        "使 ##用 语 ##言 模 ##型 来 预 ##测 下 一 ##个 词 的 pro ##ba ##bility"
    )
