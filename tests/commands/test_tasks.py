"""`yizhi classify`, `tag` and `answer`: one text on the line, whole files, and the wrong artifact."""

import csv
import json

import pyarrow
import pytest
from pyarrow import parquet

from tests.checkpoints import write_variant
from yizhi.cli import main
from yizhi.runtimes import Classifier, Reader, Tagger, WordTagger

TEXTS = ["北京是中国的首都。", "这个酒店\u2028服务很好！", "Hello, worlds"]
QUESTIONS = [("首都是哪里？", "北京是中国的首都。"), ("服务？", "这个酒店的服务很好！" * 12)]


@pytest.fixture
def artifact(open_variant):
    """The folder of an artifact whose answers do not depend on the batch, bit for bit."""
    return lambda variant: open_variant(variant, "onnx-int8").artifact.folder


def read_rows(path):
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def write_rows(path, rows):
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([rows[0], *(row.values() for row in rows)])
    elif path.suffix == ".tsv":
        lines = ["\t".join(row) for row in (rows[0], *(row.values() for row in rows))]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def plain(results):
    return [vars(result) for result in results]


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("source", ["in.jsonl", "in.csv", "in.tsv", "in.parquet"])
def test_whole_files(tmp_path, open_variant, artifact, source, output):
    write_rows(tmp_path / source, [{"text": text} for text in TEXTS])
    pairs = write_rows(tmp_path / f"pairs-{source}", [{"question": q, "context": c} for q, c in QUESTIONS])
    runs = {
        ("classify", "bert-classifier", "labels"): (Classifier, TEXTS, ()),
        ("tag", "bert-tagger", "entities"): (Tagger, TEXTS, ()),
        ("tag", "bert-tagger", "tags"): (WordTagger, TEXTS, ("--tags",)),
        ("tag", "electra-discriminator", "entities"): (Tagger, TEXTS, ()),
        ("answer", "bert-reader", "answers"): (Reader, QUESTIONS, ("--top-k", "3", "--no-answer")),
    }
    for number, ((command, variant, column), (operator, given, options)) in enumerate(runs.items()):
        settings = {"top_k": 3, "no_answer": 0.0} if command == "answer" else {}
        path = tmp_path / f"{number}-{output}"
        inputs = pairs if command == "answer" else tmp_path / source
        assert main([command, str(artifact(variant)), str(inputs), "--output", str(path), *options]) == 0
        found = [row[column] for row in read_rows(path)]
        runtime = open_variant(variant, "onnx-int8")
        assert found == [plain(operator(runtime, **settings)(text)) for text in given]


def test_words_given_apart(tmp_path, open_variant, artifact, capsys):
    runtime = open_variant("bert-tagger", "onnx-int8")
    words = [["我", "住在", "北京"], ["worlds", "\u200b"]]
    expected = [plain(WordTagger(runtime)(given)) for given in words]
    for name in ("in.jsonl", "in.parquet"):
        source = write_rows(tmp_path / name, [{"tokens": given} for given in words])
        command = ["tag", str(runtime.artifact.folder), str(source), "--words", "--column", "tokens"]
        assert main([*command, "--output", str(tmp_path / f"{name}.jsonl")]) == 0
        assert [row["tags"] for row in read_rows(tmp_path / f"{name}.jsonl")] == expected
    (tmp_path / "in.txt").write_text("我 住在 北京\n", encoding="utf-8")
    assert main(["tag", str(runtime.artifact.folder), str(tmp_path / "in.txt"), "--words", "--output", "-"]) == 2
    output = str(tmp_path / "txt.jsonl")
    assert main(["tag", str(runtime.artifact.folder), str(tmp_path / "in.txt"), "--words", "--output", output]) == 0
    assert [row["tags"] for row in read_rows(tmp_path / "txt.jsonl")] == expected[:1]

    bad = write_rows(tmp_path / "bad.jsonl", [{"text": [1]}, {"text": "我"}, {}])
    capsys.readouterr()
    output = str(tmp_path / "bad-out.jsonl")
    assert main(["tag", str(runtime.artifact.folder), str(bad), "--words", "--output", output]) == 1
    message = capsys.readouterr().err
    assert "row 1: text: expected a list of words; found [1]" in message
    assert "row 3: text: expected a list of words; found None" in message


def test_one_text_on_the_line(open_variant, artifact, capsys):
    def run(command, variant, *arguments):
        assert main([command, str(artifact(variant)), *arguments]) == 0
        return capsys.readouterr().out

    pair = ("这个酒店", "服务很好")
    labels = Classifier(open_variant("bert-classifier", "onnx-int8"))(pair)
    assert json.loads(run("classify", "bert-classifier", pair[0], "--pair", pair[1], "--json")) == plain(labels)
    lines = run("classify", "bert-classifier", pair[0], "--pair", pair[1], "--top-k", "1").splitlines()
    assert lines == [f"{labels[0].label}\t{labels[0].score:.4g}"]

    entities = Tagger(open_variant("bert-tagger", "onnx-int8"))("我住\n北京")
    assert json.loads(run("tag", "bert-tagger", "我住\n北京", "--json")) == plain(entities)
    first = entities[0]
    line = run("tag", "bert-tagger", "我住\n北京").splitlines()[0]
    assert line == f"{first.text}\t{first.label}\t{first.score:.3f}\t{first.start}:{first.end}"
    assert [line.split("\t")[0] for line in run("tag", "bert-tagger", "我 住在", "--words").splitlines()] == [
        "我",
        "住在",
    ]
    assert run("tag", "bert-tagger", " ") == ""

    answers = Reader(open_variant("bert-reader", "onnx-int8"), top_k=2, no_answer=-99.0)(QUESTIONS[0])
    arguments = (*QUESTIONS[0], "--top-k", "2", "--no-answer-threshold", "-99")
    assert json.loads(run("answer", "bert-reader", *arguments, "--json")) == plain(answers)
    assert run("answer", "bert-reader", *arguments).startswith("no answer\t1.000\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("fill-mask", "bert-classifier", "[MASK]"),
            "is a classifier: it gives labels of whole texts; use `yizhi classify`",
        ),
        (
            ("fill-mask", "bert-reader", "[MASK]"),
            "is a reader: it gives the start and the end of an answer; use `yizhi answer`",
        ),
        (("tag", "bert-reader", "你"), "cannot tag words: the checkpoint is a reader"),
        (("classify", "bert-tagger", "你"), "is a tagger: it gives labels of words; use `yizhi tag`"),
        (("answer", "bert", "你", "我"), "is a masked-language model: it gives words; use `yizhi fill-mask`"),
        (("classify", "electra-discriminator", "你"), "use `yizhi tag`"),
        (("answer", "bert-reader", "你"), "expected a question and its context"),
        (("answer", "bert-reader", "你", "我", "--output", "o.jsonl"), "or a file of them with --output"),
        (("answer", "bert-reader", "{txt}", "--output", "o.jsonl"), "one text in a line, and no column 'context'"),
        (("answer", "bert-reader", "{csv}", "--output", "o.jsonl"), "has no column 'question'; found 'text'"),
        (("tag", "bert-tagger", "你", "--stride", "-1"), "--stride"),
        (("tag", "bert-tagger", "{csv}", "--output", "o.npy"), ".npy holds one vector a row"),
        (("classify", "bert-classifier", "你", "--top-k", "9"), "expected 1 … 3; found 9"),
    ],
)
def test_what_cannot_be_done(tmp_path, artifact, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for suffix in ("txt", "csv"):
        (tmp_path / f"in.{suffix}").write_text("text\n你\n", encoding="utf-8")
    command, variant, *rest = (argument.format(txt="in.txt", csv="in.csv") for argument in arguments)
    assert main([command, str(artifact(variant)), *rest]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.parametrize("kind", ["checkpoint", "onnx-int8"])
def test_inspect_lists_the_labels(artifact, kind, capsys):
    path = str(artifact("bert-tagger").parent / kind)
    assert main(["inspect", path]) == 0
    printed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["labels", "O, B-人, I-人, B-地, I-地"] in [[part.strip() for part in line] for line in printed]
    assert ["task", "token-classification"] in [[part.strip() for part in line] for line in printed]
    assert main(["inspect", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["O", "B-人", "I-人", "B-地", "I-地"]


def test_inspect_shortens_thousands_of_labels(tmp_path, capsys):
    config = {"num_labels": 3000}
    checkpoint = write_variant(tmp_path / "checkpoint", "bert-classifier", config=config)
    assert main(["inspect", str(checkpoint)]) == 0
    assert "LABEL_39, … 2960 more" in " ".join(capsys.readouterr().out.split())
