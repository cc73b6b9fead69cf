"""`yizhi embed` of an artifact that gives more than one vector, or a sparse one: rows on disk and on the line."""

import json

import numpy as np
import pytest
from pyarrow import parquet

from yizhi.cli import main
from yizhi.runtimes import Embedder, RetrievalEmbedder, Tokenizer

TEXTS = ["北京是中国的首都。", "你", "这个酒店的服务很好！"]
KINDS = ["dense", "sparse", "multi_vector"]


@pytest.fixture
def runtime(open_variant):
    """Of one artifact with every kind, whose answers do not depend on the batch, bit for bit."""
    return open_variant("bert-m3", "onnx-int8")


def write_lines(path, texts=TEXTS):
    path.write_text("\n".join(texts), encoding="utf-8")
    return str(path)


def read_rows(path):
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def check(row, found, vocab):
    """A row against the library's vectors, every float32 of them."""
    assert np.array_equal(np.array(row["embedding"], np.float32), found.dense)
    assert row["sparse"]["token_ids"] == found.sparse.ids.tolist()
    assert row["sparse"]["tokens"] == [vocab[index] for index in found.sparse.ids]
    assert np.array_equal(np.array(row["sparse"]["weights"], np.float32), found.sparse.weights)
    vectors = np.array(row["multi_vector"], np.float32).reshape(len(row["multi_vector"]), -1)
    assert np.array_equal(vectors, found.multi_vector)


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_every_kind_in_a_file(tmp_path, runtime, output):
    command = ["embed", str(runtime.artifact.folder), write_lines(tmp_path / "in.txt"), "--kind", *KINDS]
    assert main([*command, "--output", str(tmp_path / output)]) == 0
    rows = read_rows(tmp_path / output)
    vocab = Tokenizer.open(runtime.artifact.folder).vocab
    assert [row["row"] for row in rows] == [1, 2, 3]
    for row, found in zip(rows, RetrievalEmbedder(runtime)(TEXTS), strict=True):
        check(row, found, vocab)


def test_only_what_is_asked_for(tmp_path, runtime):
    command = ["embed", str(runtime.artifact.folder), write_lines(tmp_path / "in.txt"), "--kind", "sparse"]
    assert main([*command, "--output", str(tmp_path / "out.jsonl")]) == 0
    assert [row.keys() for row in read_rows(tmp_path / "out.jsonl")] == [{"row", "sparse"}] * 3
    assert main([*command, "--output", str(tmp_path / "out.npy")]) == 2


def test_weights_of_the_vocabulary(tmp_path, open_variant, capsys):
    runtime = open_variant("bert-splade", "onnx-int8")
    assert main(["embed", str(runtime.artifact.folder), TEXTS[0], "--kind", "sparse"]) == 0
    (found,) = RetrievalEmbedder(runtime)(TEXTS[:1])
    assert json.loads(capsys.readouterr().out)["sparse"]["token_ids"] == found.sparse.ids.tolist()


def test_splades_artifact_gives_its_sparse_weights_unless_a_pooling_is_asked_for(tmp_path, open_variant, capsys):
    runtime = open_variant("bert-splade", "onnx-int8")
    command = ["embed", str(runtime.artifact.folder)]
    assert main([*command, TEXTS[0]]) == 0
    (found,) = RetrievalEmbedder(runtime)(TEXTS[:1])
    assert json.loads(capsys.readouterr().out)["sparse"]["token_ids"] == found.sparse.ids.tolist()
    assert main([*command, write_lines(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl")]) == 0
    assert [row.keys() for row in read_rows(tmp_path / "out.jsonl")] == [{"row", "sparse"}] * 3
    capsys.readouterr()
    assert main([*command, TEXTS[0], "--pooling", "mean", "--normalize"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == runtime.config.hidden_size
    assert main([*command, TEXTS[0], "--normalize"]) == 2
    told = "is for vectors: the artifact gives sparse weights (SPLADE), unless --pooling chooses a vector"
    assert capsys.readouterr().err == f"yizhi: --normalize:\n  - {told}\n"


def test_one_text_on_the_line(runtime, capsys):
    command = ["embed", str(runtime.artifact.folder), TEXTS[0]]
    assert main([*command, "--kind", *KINDS]) == 0
    vocab = Tokenizer.open(runtime.artifact.folder).vocab
    check(json.loads(capsys.readouterr().out), RetrievalEmbedder(runtime)(TEXTS[:1])[0], vocab)
    vector = Embedder(runtime)(TEXTS[:1])[0].tolist()
    assert main([*command, "--json"]) == 0
    assert np.array_equal(np.array(json.loads(capsys.readouterr().out)["embedding"], np.float32), np.float32(vector))
    assert main(command) == 0
    assert np.array_equal(np.array(json.loads(capsys.readouterr().out), np.float32), np.float32(vector))


@pytest.mark.parametrize("output", ["out.npy", "out.safetensors"])
def test_an_array_is_as_wide_as_the_vectors(tmp_path, open_variant, output):
    """`bert-dense` ends in a Dense that is narrower than the hidden states."""
    runtime = open_variant("bert-dense", "onnx-int8")
    expected = Embedder(runtime)(TEXTS)
    assert expected.shape[1] != runtime.config.hidden_size
    command = ["embed", str(runtime.artifact.folder), write_lines(tmp_path / "in.txt", [*TEXTS, "长" * 99])]
    for options, width in (([], expected.shape[1]), (["--dimensions", "5"], 5)):
        assert main([*command, *options, "--output", str(tmp_path / output), "--overwrite"]) == 1  # the long one
        path = tmp_path / output
        if path.suffix == ".npy":
            found = np.load(path)
        else:
            from safetensors.numpy import load_file

            found = load_file(path)["embeddings"]
        assert found.shape == (4, width)
        assert np.array_equal(found[:3], Embedder(runtime, dimensions=width)(TEXTS))
        assert np.isnan(found[3]).all()


@pytest.mark.parametrize(
    ("variant", "arguments", "message"),
    [
        ("bert", ("--kind", "sparse"), "sparse: expected one of the outputs token_weights, term_weights; found"),
        ("bert-m3", ("--kind", "dense", "--pooling", "mean"), "--pooling:\n  - does not go with --kind, which"),
        (
            "bert-m3",
            ("--kind", "dense", "--layer", "1", "--no-normalize"),
            "--layer, --normalize:\n  - does not go with --kind",
        ),
        ("bert-m3", ("--dimensions", "999"), "--dimensions: expected 1 … 32; found 999"),
    ],
)
def test_what_cannot_be_given(tmp_path, open_variant, variant, arguments, message, capsys):
    folder = str(open_variant(variant, "onnx-int8").artifact.folder)
    assert main(["embed", folder, TEXTS[0], *arguments]) == 2
    assert message in capsys.readouterr().err
    command = ["embed", folder, write_lines(tmp_path / "in.txt"), *arguments]
    assert main([*command, "--output", str(tmp_path / "out.jsonl")]) == 2
    assert not list(tmp_path.glob("out.*"))
