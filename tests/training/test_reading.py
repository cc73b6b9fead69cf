"""Reading: answers that are where they are said to be, windows, spans, and CMRC's scores."""

import json

import numpy as np
import pytest

from tests.checkpoints import VOCAB, open_tokenizer
from yizhi.errors import InputError
from yizhi.training import cmrc
from yizhi.training.tasks.faults import Faults
from yizhi.training.tasks.reading import Question, Reading, SquadReader, best_span

CONTEXT = "北京的酒店服务很好，早餐不好。"


def tokenizer(max_length=64):
    return open_tokenizer(VOCAB, max_length)


def entry(answer="酒店", start=3, identity="Q1", question="哪个好"):
    return {"id": identity, "question": question, "answers": [{"text": answer, "answer_start": start}]}


def write(path, entries, context=CONTEXT):
    path.write_text(
        json.dumps({"data": [{"paragraphs": [{"context": context, "qas": entries}]}]}, ensure_ascii=False, indent=1),
        encoding="utf-8",
    )
    return path


def read(path):
    faults = Faults()
    return SquadReader().read(path, faults), faults


def faults_of(faults):
    with pytest.raises(InputError) as caught:
        faults.check()
    return caught.value.faults


def test_squad_layout(tmp_path):
    questions, faults = read(write(tmp_path / "train.json", [entry(), entry("早餐", 10, "Q2")]))
    faults.check()
    assert [q.answers for q in questions] == [(("酒店", 3),), (("早餐", 10),)]


def test_answers_that_are_not_in_their_context_are_told_with_their_line(tmp_path):
    bad = [entry("酒店", 4), entry("山水", 3, "Q2"), {"id": "Q3", "question": "谁", "answers": []}, {"id": "Q4"}]
    path = write(tmp_path / "train.json", bad)
    lines = path.read_text(encoding="utf-8").split("\n")
    found = faults_of(read(path)[1])
    assert len(found) == 4
    for fault, identity in zip(found, ("Q1", "Q2", "Q3", "Q4"), strict=True):
        line = next(number for number, text in enumerate(lines, start=1) if f'"{identity}"' in text)
        assert fault.startswith(f"{path}, line {line}: {identity}: ")
    assert "answer '酒店' is not at character 4 of its context: it is at 3" in found[0]
    assert "the context does not have it" in found[1]
    assert "unanswerable questions are not supported" in found[2]
    assert "expected a question" in found[3]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is not JSON"),
        ("{}", "data: expected a list of objects with paragraphs"),
        ('{"data": []}', "has no question"),
        ('{"data": [{"paragraphs": [5]}]}', "expected an object with context and qas; found 5"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, fault):
    (tmp_path / "a.json").write_text(content)
    (found,) = faults_of(read(tmp_path / "a.json")[1])
    assert fault in found


def question(answer, begin, context=CONTEXT, ask="哪个好"):
    return Question(None, 1, "Q", ask, context, ((answer, begin),))


def test_targets_are_the_answers_tokens():
    (feature,) = Reading().encode([question("酒店", 3)], tokenizer(), Faults())
    start, end = feature.targets["start_positions"], feature.targets["end_positions"]
    assert [VOCAB[i] for i in feature.row.ids[start : end + 1]] == ["酒", "店"]
    assert feature.row.types[start] == 1


def test_an_answer_counts_in_the_windows_that_hold_all_of_it():
    context = "山" * 20 + "北京" + "水" * 20
    example = question("北京", 20, context, "哪")
    features = Reading().encode([example], tokenizer(20), Faults())
    assert len(features) > 2
    holding = [f for f in features if f.targets["start_positions"]]
    for feature in holding:
        assert feature.row.offsets[feature.targets["start_positions"]].tolist() == [20, 21]
        assert feature.row.offsets[feature.targets["end_positions"]].tolist() == [21, 22]
    whole = [f for f in features if {20, 21} <= set(f.row.offsets[f.row.types == 1, 0].tolist())]
    assert [id(f) for f in holding] == [id(f) for f in whole]


def test_an_answer_that_begins_with_what_the_tokenizer_drops():
    (feature,) = Reading().encode([question(" 北京", 1, "在 北京")], tokenizer(), Faults())
    assert feature.row.offsets[feature.targets["start_positions"]].tolist() == [2, 3]


def test_the_answer_is_the_best_span_of_all_windows():
    context = "山" * 20 + "北京" + "水" * 20
    example = question("北京", 20, context, "哪")
    task = Reading()
    features = task.encode([example], tokenizer(20), Faults())
    logits = []
    for feature in features:
        scores = np.zeros((feature.length, 2))
        scores[0] = 99  # [CLS] is no answer
        start, end = feature.targets["start_positions"], feature.targets["end_positions"]
        scores[start or feature.length - 3, 0] = scores[end or feature.length - 2, 1] = 5 if start else 1
        logits.append(scores)
    assert task.predict([example], features, logits) == ["北京"]
    assert task.score([example], features, logits) == {"f1": 1.0, "exact_match": 1.0}


def test_a_span_does_not_end_before_it_begins_nor_run_on():
    logits = np.zeros((50, 2))
    logits[10, 0], logits[12, 1], logits[5, 1], logits[45, 1] = 5, 3, 9, 9
    assert best_span(logits, np.arange(1, 49)) == (9.0, 1, 5)  # 10 … 45 would be 14, but is longer than an answer is
    assert best_span(logits[:40], np.arange(6, 39)) == (8.0, 10, 12)  # 10 … 5 would be 14


def test_questions_that_leave_no_room_are_told():
    faults = Faults()
    long = question("酒店", 3, CONTEXT * 4, "哪" * 40)
    Reading().encode([long, question("\u200b", 0, "\u200b\u200b")], tokenizer(32), faults)
    found = faults_of(faults)
    assert "to leave room for its pair" in found[0]
    assert "no token is left of its context" in found[1]


@pytest.mark.parametrize(
    ("answer", "truths", "f1", "exact"),
    [
        ("北京大学", ["北京大学"], 1, 1),
        ("北京大学。", ["《北京大学》"], 1, 1),  # punctuation does not count
        ("北京", ["北京大学"], 2 * 2 / (2 + 4), 0),
        ("北大京学", ["北京大学"], 2 * 1 / 8, 0),  # a run, not a subsequence
        ("上海", ["北京", "上海市"], 2 * 2 / 5, 0),  # the best of several
        ("山", ["水"], 0, 0),
        ("", ["水"], 0, 0),
        ("NBA球队", ["nba球队"], 1, 1),
        ("new york", ["New York City"], 2 * 2 / 5, 0),  # words, not letters
        ("1.5米", ["1.5"], 2 * 1 / 3, 0),
    ],
)
def test_cmrc_scores(answer, truths, f1, exact):
    assert cmrc.f1(answer, truths) == pytest.approx(f1)
    assert cmrc.exact_match(answer, truths) == exact


def test_cmrc_trial_is_read_whole(shared_data):
    path = shared_data / "corpora" / "cmrc2018_trial.json"
    questions, faults = read(path)
    found = faults_of(faults)
    # What is wrong in the published file: a space that its context has lost, and two questions without words.
    assert len(found) == 7
    assert sum("answer" in fault for fault in found) == 5
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert len(questions) + 7 == sum(len(p["qas"]) for article in raw["data"] for p in article["paragraphs"])
    truths = [[text for text, _ in question.answers] for question in questions]
    assert {cmrc.f1(answers[0], answers) for answers in truths if cmrc.units(answers[0])} == {1.0}
