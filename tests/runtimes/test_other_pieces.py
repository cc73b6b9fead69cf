"""Answers of models whose tokenizers are Unigram or BPE over bytes: sentences, words and spans read right."""

import re

import numpy as np
import pytest
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, AutoTokenizer, pipeline

from tests.checkpoints import TOKENIZERS
from yizhi.errors import InputError
from yizhi.runtimes.classifier import Classifier
from yizhi.runtimes.embeddings import Embedder
from yizhi.runtimes.fill_mask import FillMask
from yizhi.runtimes.pieces import Pieces
from yizhi.runtimes.reader import Reader
from yizhi.runtimes.tagger import Tagger, WordTagger
from yizhi.runtimes.tokenization import Tokenizer

TEXT = "hello  北京 是中国的hello world。 "


@pytest.fixture(params=TOKENIZERS)
def family(request):
    return request.param


@pytest.fixture
def open_own(open_variant, family):
    """An ONNX or PyTorch artifact of this family with its own tokenizer."""
    return lambda kind, target="onnx": open_variant(f"{family}-own-{kind}", target)


def of_transformers(task: str, loader: type, folder):
    return pipeline(
        task, loader.from_pretrained(folder).eval(), tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu"
    )


@pytest.mark.parametrize("text", ["北京是[MASK]国的首都。", "hello [MASK] world", "[MASK]国 x"])
def test_scores_are_those_of_transformers(open_own, text):
    runtime = open_own("fill-mask")
    fill, tokenizer = FillMask(runtime, top_k=8), Tokenizer.open(runtime.artifact.folder)
    expected = of_transformers("fill-mask", AutoModelForMaskedLM, open_own("fill-mask", "pytorch").artifact.folder)
    (found,) = fill(text)
    assert [(one.token_id, pytest.approx(one.score, abs=1e-5)) for one in found] == [
        (one["token"], one["score"]) for one in expected(tokenizer.put_mask(text), top_k=8)
    ]


@pytest.mark.parametrize(
    ("text", "piece", "sentence"),
    [
        ("北京是[MASK]国的", "中", "北京是中国的"),
        ("hello [MASK].", " world", "hello world."),
        ("hello [MASK].", "ing", "helloing."),
        ("[MASK] 是", " hello", "hello 是"),
        ("北[MASK]", " world", "北 world"),
    ],
)
def test_a_filled_sentence_reads_right(open_own, family, text, piece, sentence):
    make, _ = TOKENIZERS[family]
    (found,) = FillMask(open_own("fill-mask"), top_k=make().get_vocab_size())(text)
    (answer,) = [one for one in found if one.token == piece]
    assert answer.sentence == sentence


def test_the_usual_mask_stands_for_the_models_own(open_own):
    runtime = open_own("fill-mask")
    fill, own = FillMask(runtime), Tokenizer.open(runtime.artifact.folder).mask
    assert fill("北京是[MASK]国") == fill(f"北京是{own}国")
    assert len(fill(f"[MASK]是{own}国")) == (2 if own == "[MASK]" else 1)
    assert fill(("北[MASK]", "是[MASK]")) == fill((f"北{own}", f"是{own}"))
    with pytest.raises(InputError, match=re.escape(f"has no {own} to fill")):
        fill("北京")


def test_a_target_is_spelled_as_it_would_be_there(open_own, family):
    fill = FillMask(open_own("fill-mask"))
    tokenizer = Tokenizer.open(open_own("fill-mask").artifact.folder)
    (apart,), (inside,) = fill("北 [MASK]", targets=["world"]), fill("北[MASK]", targets=["world"])
    assert (apart[0].sentence, inside[0].sentence) == ("北 world", "北world")
    assert apart[0].token_id == tokenizer.tokenize(["北 world"])[0].ids[-2]
    assert inside[0].token_id != apart[0].token_id
    ((first,),) = fill("[MASK]是", targets=["hello"])
    begun = tokenizer.tokenize(["hello是"])[0].ids[1]
    assert first.token_id == (begun if tokenizer.adds_space else None)
    for text, word in (("北[MASK]是", "中国好快"), ("[MASK]是", "hello"), ("hello [MASK]", "北京好")):
        spelled = tokenizer.pieces(word, spaced=text.startswith("hello ") or (text[0] == "[" and tokenizer.adds_space))
        whole = tokenizer.tokenize([text.replace(" [MASK]", f" {word}").replace("[MASK]", word)])[0].ids.tolist()
        assert any(whole[at : at + len(spelled)] == spelled for at in range(len(whole)))
        (answer,) = fill(text, targets=[word])[0]
        assert answer.token == word


def test_words_are_those_of_the_text(open_own):
    words = WordTagger(open_own("tagger"))(TEXT)
    assert all(TEXT[word.start : word.end] == word.text == word.text.strip() for word in words)
    joined = "".join(word.text for word in words)
    assert joined == TEXT.replace(" ", "")
    assert {"hello", "world", "。", "的"} <= {word.text for word in words}


def test_a_words_label_is_that_of_its_first_token(open_own):
    words = WordTagger(open_own("tagger"))(TEXT)
    folder = open_own("tagger", "pytorch").artifact.folder
    tokens = of_transformers("token-classification", AutoModelForTokenClassification, folder)(
        TEXT, aggregation_strategy="none", ignore_labels=[]
    )
    blank = [not TEXT[token["start"] : token["end"]].strip() for token in tokens]
    for word in words:
        at = next(at for at, token in enumerate(tokens) if not blank[at] and token["end"] > word.start)
        first = tokens[at - 1 if at and blank[at - 1] else at]  # a space may be a piece of its own
        assert (word.label, word.score) == (first["entity"], pytest.approx(first["score"], abs=1e-5)), word


def test_entities_do_not_begin_with_a_space(open_own):
    for entity in Tagger(open_own("tagger"))(TEXT * 4):
        assert entity.text == (TEXT * 4)[entity.start : entity.end] == entity.text.strip()


def test_words_given_apart(open_own):
    given = ["北京", "是", "\x01", "hello"]
    found = WordTagger(open_own("tagger"))(given)
    assert [word.text for word in found] == given


def test_spans_of_a_context_in_windows(open_own):
    context = TEXT * 10
    answers = Reader(open_own("reader"), top_k=5)(("北京是", context))
    assert len(answers) == 5
    for answer in answers:
        assert answer.text == context[answer.start : answer.end] == answer.text.strip() != ""


def test_texts_become_vectors_and_labels(open_own):
    runtime = open_own("no-head")
    vectors = Embedder(runtime, long="truncate")(["北京", "hello world", TEXT * 9])
    assert vectors.shape == (3, runtime.config.hidden_size)
    assert np.isfinite(vectors).all()
    pairs = Classifier(open_own("classifier"))
    assert pairs(("北京", "中国")) != pairs("北京中国")


@pytest.mark.parametrize("text", ["hello world ing", "北京是中国的首都", "  x  北 ", "Ａ ▁ b", "", "👨‍👩‍👧 e\u0301"])
def test_pieces_of_one_word_go_on(family, text):
    """Each token but the first of a word goes on, whatever its pieces are."""
    make, _ = TOKENIZERS[family]
    tokenizer = make()
    encoding = tokenizer.encode(text, add_special_tokens=False)
    pieces = Pieces(tokenizer, [])
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    goes_on = pieces.goes_on(np.array(encoding.ids, np.int64), offsets, text)
    trimmed = pieces.trim(offsets, text)
    begun: set[int] = set()
    for (begin, end), on in zip(trimmed.tolist(), goes_on.tolist(), strict=True):
        assert begin == end or text[begin].strip("▁ ") != ""
        assert on or begin == end or begin not in begun
        begun |= set(range(begin, end))
    assert not goes_on[:1].any()
