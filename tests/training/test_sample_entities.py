"""The sentences of docs/ner-walkthrough.md: well-formed, repeatable, and with nothing of the test in training."""

from yizhi.training.sample_entities import make_sentences, write_conll
from yizhi.training.tasks.faults import Faults
from yizhi.training.tasks.tagging import TaggingReader


def names(sentences):
    found = set()
    for sentence in sentences:
        for character, tag in sentence:
            if tag.startswith("B-"):
                found.add(character)
                current = character
            elif tag.startswith("I-"):
                found.discard(current)
                current += character
                found.add(current)
    return found


def test_nothing_of_the_test_is_in_training():
    train, test = make_sentences(2000, seed=1), make_sentences(400, seed=3, test=True)
    assert make_sentences(2000, seed=1) == train
    assert len(names(train)) > 500
    assert not names(train) & names(test)
    texts = [{"".join(character for character, _ in sentence) for sentence in part} for part in (train, test)]
    assert not texts[0] & texts[1]


def test_they_are_read_as_they_were_written(tmp_path):
    sentences, faults = make_sentences(50, seed=2), Faults()
    write_conll(tmp_path / "a.txt", sentences)
    examples = TaggingReader().read(tmp_path / "a.txt", faults)
    task = TaggingReader().make_task(examples)
    task.check(examples, faults)
    faults.check()
    assert [list(zip(example.tokens, example.tags, strict=True)) for example in examples] == sentences
    assert task.labels == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
