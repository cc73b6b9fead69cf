"""Classification: labels from CSV, JSON lines and Parquet, and their scores."""

import csv
import json

import numpy as np
import pytest

from tests.checkpoints import VOCAB, open_tokenizer
from yizhi.errors import InputError
from yizhi.model.label_heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from yizhi.training.tasks.classification import Classification, ClassificationReader
from yizhi.training.tasks.faults import Faults

ROWS = [("酒店很好", "好"), ("房间不干净", "差"), ("早餐", "好")]


def write(path, rows, names=("text", "label")):
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *rows])
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({name: [row[i] for row in rows] for i, name in enumerate(names)}), path)
    return path


def faults_of(faults):
    with pytest.raises(InputError) as caught:
        faults.check()
    return caught.value.faults


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_formats_of_one_content(tmp_path, suffix):
    faults = Faults()
    examples = ClassificationReader().read(write(tmp_path / f"train.{suffix}", ROWS), faults)
    faults.check()
    assert [(e.text, e.labels) for e in examples] == [(text, (label,)) for text, label in ROWS]
    assert ClassificationReader().make_task(examples).labels == ("好", "差")


def test_pairs_and_other_columns(tmp_path):
    path = write(tmp_path / "train.csv", [("一", "二", "1"), ("三", "四", "0")], ("a", "b", "same"))
    examples = ClassificationReader(column="a", pair_column="b", label_column="same").read(path, Faults())
    assert [(e.text, e.labels) for e in examples] == [(("一", "二"), ("1",)), (("三", "四"), ("0",))]
    assert ClassificationReader().make_task(examples).labels == ("0", "1")


def test_numbers_as_labels_are_in_the_order_of_numbers(tmp_path):
    examples = ClassificationReader().read(write(tmp_path / "b.jsonl", [("天", 10), ("地", 9)]), Faults())
    assert ClassificationReader().make_task(examples).labels == ("9", "10")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_several_labels(tmp_path, suffix):
    rows = (
        [("天", "甲|乙"), ("地", ""), ("人", "乙")]
        if suffix == "csv"
        else [("天", ["甲", "乙"]), ("地", []), ("人", ["乙"])]
    )
    faults = Faults()
    examples = ClassificationReader(MULTI_LABEL).read(write(tmp_path / f"train.{suffix}", rows), faults)
    faults.check()
    assert [e.labels for e in examples] == [("甲", "乙"), (), ("乙",)]
    task = ClassificationReader(MULTI_LABEL).make_task(examples)
    features = task.encode(examples, open_tokenizer(VOCAB, 64), faults)
    assert [f.targets["labels"] for f in features] == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    assert task.labels == ("乙", "甲")
    assert task.config()["problem_type"] == MULTI_LABEL


def test_every_fault_is_told_with_its_line(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        '{"text": "天", "label": "甲"}\n{"text": 5, "label": "甲"}\n{"text": "地"}\n{"text": "地", "label": ""}\n{'
    )
    faults = Faults()
    ClassificationReader().read(path, faults)
    found = faults_of(faults)
    assert [fault.partition(":")[0] for fault in found] == [f"{path}, line {line}" for line in (2, 3, 4, 5)]
    assert "text: expected a string; found 5" in found[0]
    assert "label: expected a label; found None" in found[1]


def test_regression(tmp_path):
    path = write(tmp_path / "train.csv", [("天", "0.5"), ("地", "x"), ("人", "nan")])
    faults = Faults()
    examples = ClassificationReader(REGRESSION).read(path, faults)
    assert [e.number for e in examples] == [0.5]
    assert len(faults_of(faults)) == 2
    task = ClassificationReader(REGRESSION).make_task(examples)
    assert task.config() == {"id2label": {"0": "label"}, "label2id": {"label": 0}, "problem_type": REGRESSION}


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "", "is empty: expected a line with the names of the columns"),
        ("a.csv", "text,label\n", "has no row"),
        ("a.csv", "text\n天\n", "has no column 'label'; found 'text'"),
        ("a.txt", "天\n", "expected .csv, .tsv, .jsonl or .parquet"),
        ("a.xlsx", "天\n", "expected a name ending in"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, fault):
    (tmp_path / name).write_text(content)
    faults = Faults()
    ClassificationReader().read(tmp_path / name, faults)
    (found,) = faults_of(faults)
    assert found.startswith(str(tmp_path / name))
    assert fault in found


def test_labels_are_checked(tmp_path):
    train = ClassificationReader().read(write(tmp_path / "train.csv", ROWS[:1]), Faults())
    held_out = ClassificationReader().read(write(tmp_path / "dev.csv", ROWS), Faults())
    faults = Faults()
    ClassificationReader().make_task(train).check([*train, *held_out], faults)
    assert faults_of(faults) == [
        f"{tmp_path / 'train.csv'}: expected at least two labels; found only '好'",
        f"{tmp_path / 'dev.csv'}, line 3: label '差' is unknown: expected one of 好",
    ]


def score(task, examples, logits):
    return task.score(examples, [], [np.array(row) for row in logits])


def test_scores(tmp_path):
    examples = ClassificationReader().read(write(tmp_path / "train.csv", ROWS), Faults())
    task = ClassificationReader().make_task(examples)
    # 好 right, 差 taken for 好, 好 right: F1 of 好 is 4/5, of 差 0.
    assert score(task, examples, [[1, 0], [1, 0], [1, 0]]) == {
        "accuracy": pytest.approx(2 / 3),
        "f1": pytest.approx(0.4),
    }
    several = Classification(("甲", "乙"), MULTI_LABEL)
    rows = [("天", ["甲", "乙"]), ("地", [])]
    examples = ClassificationReader(MULTI_LABEL).read(write(tmp_path / "m.jsonl", rows), Faults())
    assert score(several, examples, [[1, -1], [-1, -1]]) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}
    numbers = Classification(("label",), REGRESSION)
    examples = ClassificationReader(REGRESSION).read(
        write(tmp_path / "r.csv", [("天", "1"), ("地", "2"), ("人", "4")]), Faults()
    )
    found = score(numbers, examples, [[0.0], [1.0], [9.0]])
    assert found["spearman"] == pytest.approx(1)
    assert 0.9 < found["pearson"] < 1
    assert score(numbers, examples, [[1.0]] * 3) == {"pearson": 0.0, "spearman": 0.0}


def test_guessing_knows_shares_and_no_text(tmp_path):
    def labelled(labels, problem=SINGLE_LABEL):
        path = write(tmp_path / "guess.jsonl", [("天", label) for label in labels])
        return ClassificationReader(problem).read(path, Faults())

    one_sided, even = labelled("aaab" * 10), labelled("ab" * 20)
    task = Classification(("a", "b"), SINGLE_LABEL)
    # Always a: F1 6/7 of a and 0 of b, 0.43 on average; labels drawn by their shares have 3/4 and 1/4.
    assert task.guess(one_sided, one_sided)["f1"] == pytest.approx(0.5, abs=0.02)
    assert task.guess(even, even)["accuracy"] == pytest.approx(0.5, abs=0.02)
    assert task.guess(labelled("a" * 40), even) == {"accuracy": 0.5, "f1": pytest.approx(1 / 3)}
    several = Classification(("a", "b"), MULTI_LABEL)
    rows = labelled([["a"], ["a", "b"], ["a"], ["a"]] * 10, MULTI_LABEL)
    assert several.guess(rows, rows) == {"accuracy": 0.75, "f1": pytest.approx(80 / 90)}
    numbers = labelled(["1", "2", "4"], REGRESSION)
    assert Classification(("label",), REGRESSION).guess(numbers, numbers) == {"pearson": 0.0, "spearman": 0.0}


def test_what_is_too_long_is_cut():
    from yizhi.training.tasks.classification import Labelled

    task = Classification(("0", "1"), SINGLE_LABEL)
    example = Labelled(None, 1, ("天" * 50, "地"), ("1",))
    (feature,) = task.encode([example], open_tokenizer(VOCAB, 16), Faults())
    assert feature.length == 16
    assert feature.targets == {"labels": 1}
    assert (feature.row.types == 1).sum() == 2
