"""Entities and tags: offsets into the text as it was given, whatever its length and its characters."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining, AutoTokenizer, pipeline

from tests.checkpoints import VOCAB
from yizhi.errors import InputError
from yizhi.runtimes import Tagger, TagScheme, WordTagger

# What a tagger may be given; tokens are looked for in it where they are.
HOSTILE = [
    "我住在北京的酒店。",
    "  我\u3000住 \t在\n北京 ",
    "Ｈｅｌｌｏ，北京！",  # full-width
    "Cafe\u0301 的 Hellı̇ E\u0301\u0302a",  # combining accents
    "İstanbul 的 ẞ ﬁn",  # letters that change length in lower case, or never split
    "我😀👨‍👩‍👧北🇨🇳京",  # astral, joined and paired emoji
    "𠀀𪚥的\U0002f800大",  # Han beyond the basic plane, and one that normalises to another
    "首\u2028都\u2029天\x85地\x00我\ufffd你\u200b他",  # line separators, control and format characters
    "魑魅 hellos魍魎zzzzq [UNK] [MASK] ##ing",
    "각가 が か\u3099",  # jamo that compose, kana whose mark decomposes
    "한국어 的",
]

# The random head gives label 3 most often: as a plain tag, it makes entities of several words.
PLAIN = {"config": {"id2label": {"0": "O", "1": "人", "2": "时", "3": "地", "4": "机构"}}}


@pytest.fixture
def tag_words(open_variant):
    return WordTagger(open_variant("bert-tagger"))


@pytest.mark.parametrize("text", HOSTILE)
def test_words_are_where_they_were(tag_words, text):
    tags = tag_words(text)
    last = 0
    for tag in tags:
        assert last <= tag.start < tag.end <= len(text)
        assert tag.text == text[tag.start : tag.end]
        # A word is read alone as it was in the text, so these were its characters, and no others.
        (alone,) = tag_words(tag.text) if tag.text.strip("\ufffd") else [tag]
        assert (alone.start, alone.end) == (0, len(tag.text))
        last = tag.end
    # No letter is left out.
    covered = {index for tag in tags for index in range(tag.start, tag.end)}
    assert not [text[index] for index in range(len(text)) if text[index].isalnum() and index not in covered]


@pytest.mark.parametrize("text", HOSTILE)
def test_every_entity_repeats_its_characters(open_variant, text):
    for variant in ("bert-tagger", "electra-discriminator"):
        for entity in Tagger(open_variant(variant))(text):
            assert entity.text == text[entity.start : entity.end]
            assert 0 < entity.score <= 1


@pytest.mark.parametrize("seed", range(5))
def test_entities_are_those_of_transformers(open_variant, seed):
    runtime = open_variant("albert-tagger")
    folder = str(runtime.artifact.folder)
    oracle = pipeline(
        "token-classification", model=folder, tokenizer=folder, aggregation_strategy="first", device="cpu"
    )
    words = [*VOCAB[5:55], " hello ", " Worlds ", "  helloing ", "é", "，", "12", "\u2028"]
    text = "".join(words[index] for index in np.random.default_rng(seed).integers(0, len(words), 30))
    expected = oracle(text)
    found = Tagger(runtime)(text)
    assert len(found) > 3
    assert [(e.label, e.start, e.end) for e in found] == [(e["entity_group"], e["start"], e["end"]) for e in expected]
    np.testing.assert_allclose([e.score for e in found], [e["score"] for e in expected], rtol=1e-5)


def test_a_word_of_several_pieces_has_the_tag_of_its_first(open_variant):
    runtime = open_variant("bert-tagger")
    logits = runtime.run(AutoTokenizer.from_pretrained(runtime.artifact.folder)("helloing worlds", return_tensors="np"))
    best = logits["logits"][0].argmax(-1)
    tags = WordTagger(runtime)("helloing worlds")
    labels = runtime.artifact.description["labels"]
    assert [(tag.text, tag.label) for tag in tags] == [("helloing", labels[best[1]]), ("worlds", labels[best[3]])]


def test_an_entitys_score_is_the_mean_of_its_words(open_variant):
    runtime = open_variant("bert-tagger", **PLAIN)
    text = "".join(VOCAB[5:45])
    tags = WordTagger(runtime)(text)
    chunks = TagScheme(runtime.artifact.description["labels"]).find_entities([tag.label for tag in tags])
    entities = Tagger(runtime)(text)
    assert any(chunk.end - chunk.begin > 1 for chunk in chunks)
    assert [(e.label, e.start, e.end) for e in entities] == [tuple(chunk) for chunk in chunks]
    for entity, chunk in zip(entities, chunks, strict=True):
        assert entity.score == pytest.approx(np.mean([tag.score for tag in tags[chunk.begin : chunk.end]]))


@pytest.mark.parametrize("long", ["windows", 0, 50])
def test_a_long_text_is_read_in_windows(open_variant, long):
    runtime = open_variant("bert-tagger", **PLAIN)
    rng = np.random.default_rng(5)
    text = "".join(VOCAB[5:55][index] for index in rng.integers(0, 50, 200)) + " helloing" * 12
    words = list(text[:200]) + ["helloing"] * 12
    tags = WordTagger(runtime, long=long)(text)
    assert [tag.text for tag in tags] == words

    # By hand: each token from the window where it has most context, of equals the first.
    ids = AutoTokenizer.from_pretrained(runtime.artifact.folder)(text, add_special_tokens=False)["input_ids"]
    shared = {"windows": 62 // 4}.get(long, long)
    best = {}
    for begin in range(0, len(ids) - shared, 62 - shared):
        window = ids[begin : begin + 62]
        logits = runtime.run({"input_ids": [[2, *window, 3]]}, ["logits"])["logits"][0].astype(float)
        for index in range(len(window)):
            margin = min(index + 1, len(window) - index)
            if margin > best.get(begin + index, (0,))[0]:
                best[begin + index] = margin, logits[index + 1]
    firsts = [index for index in range(len(ids)) if not VOCAB[ids[index]].startswith("##")]
    for tag, first in zip(tags, firsts, strict=True):
        probabilities = torch.softmax(torch.tensor(best[first][1]), -1).numpy()
        assert tag.label == runtime.artifact.description["labels"][probabilities.argmax()]
        assert tag.score == pytest.approx(probabilities.max(), rel=1e-4)

    chunks = TagScheme(runtime.artifact.description["labels"]).find_entities([tag.label for tag in tags])
    assert any(chunk.end - chunk.begin > 1 for chunk in chunks)
    entities = Tagger(runtime, long=long)(text)
    assert [(e.start, e.end) for e in entities] == [(tags[c.begin].start, tags[c.end - 1].end) for c in chunks]


def test_long_texts_cut_or_refused(open_variant):
    runtime = open_variant("bert-tagger")
    with pytest.raises(InputError, match="expected at most 64 tokens"):
        Tagger(runtime, long="error")("的" * 63)
    assert len(WordTagger(runtime, long="truncate")("的" * 100)) == 62
    for long in (-1, "cut", 1.5):
        with pytest.raises(InputError, match="long:\n  - expected error, truncate, windows or a number"):
            Tagger(runtime, long=long)


def test_one_tag_for_each_word_given(open_variant):
    tagger = WordTagger(open_variant("bert-tagger"))
    words = ["北京", "helloing", "\u200b", "", " ", "的"]
    tags = tagger(words)
    assert [tag.text for tag in tags] == words
    assert {(tag.start, tag.end) for tag in tags} == {(None, None)}
    # Characters of words given one by one are the text's; what leaves no token is read as [UNK].
    assert [(t.label, t.score) for t in tagger(list("我住北京"))] == [(t.label, t.score) for t in tagger("我住北京")]
    assert tagger(["的", "\u200b"])[1].score == pytest.approx(tagger(["的", "[UNK]"])[1].score)
    assert len(tagger(["helloing"] * 100)) == 100
    for bad in ([1], ["的", None], [["的"]], None, b"a"):
        with pytest.raises(InputError, match="expected a list of words"):
            tagger(bad)


def test_a_text_without_words(open_variant):
    for variant in ("bert-tagger", "electra-discriminator"):
        runtime = open_variant(variant)
        assert Tagger(runtime)("") == Tagger(runtime)(" \u200b") == WordTagger(runtime)("") == []
    assert WordTagger(open_variant("bert-tagger"))([]) == []
    with pytest.raises(InputError, match="expected one text; found"):
        Tagger(open_variant("bert-tagger"))(("我", "你"))
    with pytest.raises(InputError, match="expected a list of texts; found one text"):
        Tagger(open_variant("bert-tagger")).many("我你")
    with pytest.raises(InputError, match="half of a surrogate pair"):
        Tagger(open_variant("bert-tagger"))("我\ud83d")


def test_a_discriminator_judges_every_token(open_variant, make_checkpoint):
    runtime = open_variant("electra-discriminator")
    text = "我住在 helloing 魑 北京"
    tokens = AutoTokenizer.from_pretrained(runtime.artifact.folder)(text, return_tensors="pt")
    model = AutoModelForPreTraining.from_pretrained(make_checkpoint("electra-discriminator")).double().eval()
    with torch.inference_mode():
        replaced = torch.sigmoid(model(**tokens).logits[0, 1:-1]).numpy()
    tags = WordTagger(runtime)(text)
    assert [tag.text for tag in tags] == ["我", "住", "在", "hello", "ing", "魑", "北", "京"]
    assert [tag.label for tag in tags] == ["REPLACED" if value > 0.5 else "O" for value in replaced]
    np.testing.assert_allclose([tag.score for tag in tags], np.maximum(replaced, 1 - replaced), rtol=1e-5)
    entities = [(e.label, e.start, e.end, e.score) for e in Tagger(runtime)(text)]
    assert entities == [(t.label, t.start, t.end, t.score) for t in tags if t.label == "REPLACED"]
    with pytest.raises(InputError, match="judges tokens, not words"):
        WordTagger(runtime)(["我"])
