"""`yizhi rerank`: one query on the line, whole files of queries or of pairs, and what cannot be ranked."""

import json

import pytest
from pyarrow import parquet

from yizhi.bulk.progress import Progress
from yizhi.cli import main
from yizhi.runtimes import Ranker, Reranker

QUERIES = ["北京在哪里？", "酒店好吗？"]
DOCUMENTS = ["北京是中国的首都。", "这个酒店\u2028服务很好！", "Hello, worlds"]


@pytest.fixture
def runtime(open_variant):
    """An artifact whose answers do not depend on the batch, bit for bit."""
    return open_variant("bert-regression", "onnx-int8")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_rows(path):
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_one_query(tmp_path, runtime, capsys):
    documents = write_rows(tmp_path / "in.jsonl", DOCUMENTS)
    command = ["rerank", str(runtime.artifact.folder), QUERIES[0], documents]
    expected = Reranker(runtime).rank(QUERIES[0], DOCUMENTS)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [vars(one) for one in expected]
    assert main([*command, "--top-k", "1", "--raw"]) == 0
    best = expected[0]
    text = best.text.replace("\u2028", "\\u2028")
    assert capsys.readouterr().out == f"{best.logit:.4f}\t{best.index}\t{text}\n"


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_every_query_with_every_document(tmp_path, runtime, output):
    (tmp_path / "queries.txt").write_text("\n".join(QUERIES), encoding="utf-8")
    documents = write_rows(tmp_path / "in.jsonl", [{"document": text} for text in DOCUMENTS])
    command = ["rerank", str(runtime.artifact.folder), str(tmp_path / "queries.txt"), documents, "--top-k", "2"]
    assert main([*command, "--output", str(tmp_path / output)]) == 0
    expected = Ranker(runtime, documents=DOCUMENTS, top_k=2).many(QUERIES)
    assert read_rows(tmp_path / output) == [
        {"row": row, "documents": [vars(one) for one in ranked]} for row, ranked in enumerate(expected, start=1)
    ]


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_given_pairs(tmp_path, runtime, output):
    pairs = list(zip(QUERIES, DOCUMENTS, strict=False))
    given = write_rows(tmp_path / "in.jsonl", [{"q": query, "document": document} for query, document in pairs])
    command = ["rerank", str(runtime.artifact.folder), "--pairs", given, "--query-column", "q"]
    assert main([*command, "--output", str(tmp_path / output)]) == 0
    found = Reranker(runtime).many(pairs)
    assert read_rows(tmp_path / output) == [{"row": row, **vars(one)} for row, one in enumerate(found, start=1)]


def test_documents_that_cannot_be_used_are_listed_and_the_run_goes_on(tmp_path, runtime, capsys):
    rows = [{"document": ""}, *({"document": text} for text in DOCUMENTS), {"text": "no document"}]
    documents = write_rows(tmp_path / "in.jsonl", rows)
    expected = [{**vars(one), "index": one.index + 1} for one in Reranker(runtime).rank(QUERIES[0], DOCUMENTS)]
    command = ["rerank", str(runtime.artifact.folder)]
    assert main([*command, QUERIES[0], documents, "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == expected
    assert "row 1: expected a document; found an empty one" in said.err
    assert "in.jsonl: 3 of 5 documents" in said.err
    (tmp_path / "queries.txt").write_text(f"{QUERIES[0]}\n\n", encoding="utf-8")
    output, errors = tmp_path / "out.jsonl", tmp_path / "bad.jsonl"
    command += [str(tmp_path / "queries.txt"), documents, "--output", str(output), "--errors", str(errors)]
    assert main([*command, "--window", "1"]) == 1
    assert read_rows(output) == [{"row": 1, "documents": expected}]
    assert [(row.get("file"), row["row"]) for row in read_rows(errors)] == [(documents, 1), (documents, 5), (None, 2)]


def test_one_query_tells_how_far_it_is(tmp_path, runtime, monkeypatch):
    told = []
    monkeypatch.setattr(Progress, "advance", lambda self, rows, done: told.append((rows, done)))
    documents = write_rows(tmp_path / "in.jsonl", ["你" * 25] * 40)
    assert main(["rerank", str(runtime.artifact.folder), "好", documents]) == 0
    assert len(told) > 1
    assert told[-1] == (40, 1.0)


def test_scores_have_equal_digits(tmp_path, runtime, capsys):
    documents = write_rows(tmp_path / "in.jsonl", ["好" * length for length in range(1, 41)])
    assert main(["rerank", str(runtime.artifact.folder), QUERIES[0], documents, "--top-k", "40"]) == 0
    scores = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert [len(score.partition(".")[2]) for score in scores] == [4] * 40


def test_another_file_of_documents_is_another_run(tmp_path, runtime, capsys):
    # The last query is empty, which ends a strict run.
    (tmp_path / "queries.txt").write_text("\n".join([*QUERIES, "", ""]), encoding="utf-8")
    command = ["rerank", str(runtime.artifact.folder), str(tmp_path / "queries.txt")]
    options = ["--output", str(tmp_path / "out.jsonl"), "--strict", "--window", "1"]
    assert main([*command, write_rows(tmp_path / "a.jsonl", DOCUMENTS), *options]) == 2
    assert "row 3: expected a text; found ''" in capsys.readouterr().err
    assert DOCUMENTS[0] not in (tmp_path / "out.jsonl.progress").read_text(encoding="utf-8")
    assert main([*command, write_rows(tmp_path / "b.jsonl", DOCUMENTS[:2]), *options]) == 2
    assert "an unfinished run had other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{regression}", "北京"), "expected a query and a file of documents, or --pairs"),
        (("{regression}", "北京", "none.txt"), "none.txt:\n  - no such file"),
        (("{regression}", "北京", "empty.txt"), "empty.txt:\n  - expected one document or more; found none"),
        (("{regression}", "北京", "blank.txt", "--strict"), "row 2: expected a document; found an empty one"),
        (("{regression}", "北京", "blanks.txt"), "expected one document or more; found none\n  - row 1: expected a"),
        (("{regression}", "", "good.txt"), "the query:\n  - expected a text; found ''"),
        (("{regression}", "good.txt", "good.txt"), "is a file: give --output"),
        (("{regression}", "empty.txt", "good.txt", "--output", "o.jsonl"), "is empty: expected queries"),
        (("{regression}", "good.txt", "good.txt", "--output", "o.npy"), ".npy holds one vector a row"),
        (("{regression}", "--pairs", "empty.jsonl", "--output", "o.jsonl"), "is empty: expected pairs"),
        (("{regression}", "--pairs", "good.txt", "--output", "o.jsonl"), "no column 'document'"),
        (
            ("{regression}", "北京", "good.txt", "--pairs", "good.txt"),
            "does not go with a query or documents: the file has both\n  - expected --output, a file",
        ),
        (("{classifier}", "北京", "good.txt"), "cannot rank documents: expected one label, or two"),
        (("{tagger}", "北京", "good.txt"), "cannot rank documents: the checkpoint is a tagger"),
    ],
)
def test_what_cannot_be_ranked(tmp_path, open_variant, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "good.txt": "你\n",
        "empty.txt": "",
        "empty.jsonl": "",
        "blank.txt": "你\n\n我\n",
        "blanks.txt": "\n \n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    kinds = ("regression", "classifier", "tagger")
    artifacts = {kind: open_variant(f"bert-{kind}", "onnx-int8").artifact.folder for kind in kinds}
    assert main(["rerank", *(argument.format(**artifacts) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("o.*"))


def test_documents_that_cannot_be_read_are_told(tmp_path, runtime, capsys):
    documents = tmp_path / "in.jsonl"
    documents.write_text('{"document": "你"}\n{"text": "我"}\n{"document": "\\ud800"}\n')
    assert main(["rerank", str(runtime.artifact.folder), "北京", str(documents)]) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"yizhi: {documents}: row 2: document: expected a string; found nothing. The row has 'text': --document-column "
        "names another",
        f"yizhi: {documents}: row 3: holds half of a surrogate pair, which is no character",
    ]


def test_a_row_that_cannot_be_used_names_the_flag_of_its_column(tmp_path, runtime, capsys):
    pairs = write_rows(tmp_path / "in.jsonl", [{"query": "你", "text": "我"}, {"text": "你", "document": "我"}])
    command = ["rerank", str(runtime.artifact.folder), "--pairs", pairs, "--output", str(tmp_path / "out.jsonl")]
    assert main(command) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[2] for line in told[:2]] == [
        "--document-column names another",
        "--query-column names another",
    ]
