"""Tagging: what is read from files, which piece carries which tag, and how tags come back to tokens."""

import json

import numpy as np
import pytest

from tests.checkpoints import VOCAB, open_tokenizer
from yizhi.errors import InputError
from yizhi.training.features import IGNORED
from yizhi.training.tasks.faults import Faults
from yizhi.training.tasks.tagging import Sentence, Tagging, TaggingReader

BIO = ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG")


def tokenizer(max_length=64):
    return open_tokenizer(VOCAB, max_length)


def read(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    faults = Faults()
    return TaggingReader().read(path, faults), faults


def sentence(tokens, tags):
    return Sentence(None, 1, tuple(tokens), tuple(tags))


def faults_of(faults):
    with pytest.raises(InputError) as caught:
        faults.check()
    return caught.value.faults


@pytest.mark.parametrize(
    "content",
    [
        "北\tB-LOC\n京\tI-LOC\n\n好\tO\n",  # MSRA
        "北 B-LOC\n京 I-LOC\n\n好 O",  # People's Daily
        "\ufeff北\tNR\tB-LOC\r\n京\tNR\tI-LOC\r\n\r\n\r\n好\tA\tO\r\n",  # a column between, and a Windows editor
        "-DOCSTART- O\n\n北 B-LOC\n京 I-LOC\n\n好 O\n",
    ],
)
def test_layouts_of_one_content(tmp_path, content):
    sentences, faults = read(tmp_path / "train.txt", content)
    faults.check()
    assert [(s.tokens, s.tags) for s in sentences] == [(("北", "京"), ("B-LOC", "I-LOC")), (("好",), ("O",))]


def test_json_lines(tmp_path):
    lines = [
        {"tokens": ["北", "京"], "tags": ["B-LOC", "I-LOC"]},
        {"tokens": ["好"], "tags": ["O", "O"]},
        {"tokens": []},
    ]
    sentences, faults = read(tmp_path / "train.jsonl", "\n".join(map(json.dumps, lines)) + "\n[1]\n{")
    assert [s.tokens for s in sentences] == [("北", "京")]
    found = faults_of(faults)
    assert "line 2: expected a tag for each token; found 1 tokens, 2 tags" in found[0]
    assert "line 3: tokens: expected a list of strings; found []; tags: expected" in found[1]
    assert "line 4: expected an object" in found[2]
    assert "line 5: is not JSON" in found[3]


def test_every_fault_is_told_with_its_line(tmp_path):
    _, faults = read(tmp_path / "train.txt", "北 B-LOC\n京\n\n好 x O\n".encode() + b"\xff O\n")
    path = tmp_path / "train.txt"
    assert faults_of(faults) == [
        f"{path}, line 2: expected a token and its tag; found '京'",
        f"{path}, line 4: expected 2 columns, as in earlier lines; found 3: '好 x O'",
        f"{path}, line 5: is not UTF-8: byte 0 of the line is 0xff",
    ]


def test_a_listing_has_an_end(tmp_path):
    _, faults = read(tmp_path / "train.txt", "京\n" * 1000)
    assert faults_of(faults)[-1] == "and 980 more"


@pytest.mark.parametrize("content", ["", "\n\n\n"])
def test_an_empty_file(tmp_path, content):
    _, faults = read(tmp_path / "train.txt", content)
    assert faults_of(faults) == [f"{tmp_path / 'train.txt'}: has no sentence"]


def test_a_missing_file(tmp_path):
    faults = Faults()
    TaggingReader().read(tmp_path / "none.txt", faults)
    assert faults_of(faults) == [f"{tmp_path / 'none.txt'}: cannot be read: No such file or directory"]


def test_labels_are_found_in_one_order(tmp_path):
    content = "a I-PER\nb B-PER\nc O\nd E-LOC\ne B-LOC\n"
    examples, _ = read(tmp_path / "train.txt", content)
    task = TaggingReader().make_task(examples)
    assert task.labels == ("O", "B-LOC", "E-LOC", "B-PER", "I-PER")
    assert task.config()["id2label"]["3"] == "B-PER"
    assert TaggingReader().make_task(examples[::-1]) == task


def test_unknown_tags_and_tags_of_no_scheme_are_told_with_their_lines(tmp_path):
    train, _ = read(tmp_path / "train.txt", "北 B-LOC\n京 I-LOC\n好 NOUN\n")
    held_out, _ = read(tmp_path / "dev.txt", "好 O\n\n北 B-PER\n")
    faults = Faults()
    TaggingReader().make_task(train).check([*train, *held_out], faults)
    found = faults_of(faults)
    assert found[0].startswith(f"{tmp_path / 'train.txt'}, line 3: expected O or a tag such as B-PER")
    assert found[1].startswith(f"{tmp_path / 'dev.txt'}, line 1: tag 'O' is unknown: expected one of ")
    assert found[2].startswith(f"{tmp_path / 'dev.txt'}, line 3: tag 'B-PER' is unknown")


def targets(task, example, max_length=64):
    features = task.encode([example], tokenizer(max_length), Faults())
    return [feature.token_targets["labels"].tolist() for feature in features], features


def test_a_character_is_a_piece_and_a_word_its_first():
    example = sentence(["a1a", "好"], ["B-ORG", "O"])
    (found,), (feature,) = targets(Tagging(BIO), example)
    assert [VOCAB[index] for index in feature.row.ids] == ["[CLS]", "a", "##1", "##a", "好", "[SEP]"]
    assert found == [IGNORED, 3, IGNORED, IGNORED, 0, IGNORED]


def logits_for(task, feature, tags):
    """Logits by which each piece of a row gets this tag ([CLS] and [SEP] too)."""
    return np.eye(len(task.labels))[[task.labels.index(tag) for tag in tags]]


def test_letters_in_lines_of_their_own_are_one_piece_and_get_their_tags_back():
    example = sentence("在hello好", ["O", "B-ORG", *["I-ORG"] * 4, "O"])
    task = Tagging(BIO)
    (found,), (feature,) = targets(task, example)
    assert found == [IGNORED, 0, 3, 0, IGNORED]  # [CLS] 在 hello 好 [SEP]
    predicted = task.predict([example], [feature], [logits_for(task, feature, ["O", "O", "B-ORG", "O", "O"])])
    assert predicted == [list(example.tags)]


def test_letters_of_a_bioes_entity():
    labels = ("O", "B-ORG", "I-ORG", "E-ORG", "S-ORG")
    example = sentence("hello好", ["B-ORG", *["I-ORG"] * 3, "E-ORG", "O"])
    task = Tagging(labels)
    (found,), (feature,) = targets(task, example)
    assert found == [IGNORED, 4, 0, IGNORED]
    predicted = task.predict([example], [feature], [logits_for(task, feature, ["O", "S-ORG", "O", "O"])])
    assert predicted == [list(example.tags)]


def test_words_of_other_scripts_keep_their_space():
    assert sentence(["hello", "world", "好", "a"], ["O"] * 4).text() == (
        "hello world好a",
        [(0, 5), (6, 11), (11, 12), (12, 13)],
    )


def test_tokens_that_the_tokenizer_drops_are_outside():
    example = sentence(["北", "\u200b", "京"], ["B-LOC", "I-LOC", "I-LOC"])
    task = Tagging(BIO)
    (found,), (feature,) = targets(task, example)
    assert found == [IGNORED, 1, 2, IGNORED]
    predicted = task.predict([example], [feature], [logits_for(task, feature, ["O", "B-LOC", "I-LOC", "O"])])
    assert predicted == [["B-LOC", "O", "I-LOC"]]


def test_a_long_sentence_is_read_in_windows_and_each_token_where_it_has_most_context():
    tokens = ["北", "京"] * 15
    example = sentence(tokens, ["B-LOC", "I-LOC"] * 15)
    task = Tagging(BIO)
    found, features = targets(task, example, max_length=16)
    assert len(features) == 3
    assert {
        place: target
        for row, feature in zip(found, features, strict=True)
        for place, target in zip(feature.row.places.tolist(), row, strict=True)
        if target != IGNORED
    } == {place + 1: 1 + place % 2 for place in range(30)}
    # At the ends of a window the answer is wrong; where windows overlap, the other window's holds.
    logits = []
    for feature, row in zip(features, found, strict=True):
        tags = [BIO[max(target, 0)] for target in row]
        for place in (1, len(tags) - 2):
            if 1 < feature.row.places[place] < 30:
                tags[place] = "O"
        logits.append(logits_for(task, feature, tags))
    assert task.predict([example], features, logits) == [list(example.tags)]
    assert task.score([example], features, logits) == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_entities_are_scored_whole_and_plain_tags_one_by_one():
    task = Tagging(BIO)
    example = sentence("北京好天", ["B-LOC", "I-LOC", "O", "B-ORG"])
    _, (feature,) = targets(task, example)
    half = logits_for(task, feature, ["O", "B-LOC", "O", "O", "B-ORG", "O"])
    assert task.score([example], [feature], [half]) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    plain = Tagging(("ADJ", "NOUN"))
    example = sentence("北京好", ["NOUN", "NOUN", "ADJ"])
    _, (feature,) = targets(plain, example)
    found = plain.score([example], [feature], [logits_for(plain, feature, ["ADJ", "NOUN", "ADJ", "ADJ", "ADJ"])])
    assert found == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}


def test_guessing_is_the_likeliest_tag_everywhere():
    entities = [sentence("北京好天啊", ["B-LOC", "I-LOC", "O", "O", "O"])]
    assert Tagging(BIO).guess(entities, entities) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    plain = [sentence("北京好", ["NOUN", "NOUN", "ADJ"])]
    assert Tagging(("ADJ", "NOUN")).guess(plain, plain) == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(0.4)}
