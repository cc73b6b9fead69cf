"""Whole files: every format in and out, bad rows, and runs that are killed and started again."""

import csv
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from safetensors.numpy import load_file

from tests.artifacts import export_artifact, slow
from tests.checkpoints import write_variant
from yizhi.bulk.operators import OperatorSpec
from yizhi.cli import main
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Embedder, FillMask, open_runtime

TEXTS = ["北京是[MASK]国的首都。", "你", "这个酒店\u2028服务很[MASK]！", "Hello, [MASK] world", "天" * 40, "的[MASK]"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bulk")
    with Checkpoint.open(write_variant(folder / "checkpoint", "bert")) as checkpoint:
        return export_artifact(checkpoint, "onnx-int8", folder / "onnx-int8")


@pytest.fixture(scope="module")
def vectors(artifact):
    """One by one: int8 answers do not depend on the batch, so these are the exact answers."""
    with open_runtime(artifact) as runtime:
        embed = Embedder(runtime)
        return np.stack([embed([text])[0] for text in TEXTS])


def write_input(path: Path, texts=TEXTS):
    if path.suffix == ".txt":
        path.write_bytes("\n".join(texts).encode())
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    elif path.suffix == ".csv":
        stream = io.StringIO()
        csv.writer(stream).writerows([["id", "text"], *enumerate(texts)])
        path.write_bytes(stream.getvalue().encode())
    else:
        parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), path)
    return path


def embed(artifact, source, output, *options):
    return main(["embed", str(artifact), str(source), "--output", str(output), "--window", "4", *options])


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def read_vectors(path):
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".safetensors":
        return load_file(path)["embeddings"]
    rows = read_lines(path) if path.suffix == ".jsonl" else parquet.read_table(path).to_pylist()
    return np.array([row["embedding"] for row in rows], np.float32)


@pytest.mark.parametrize("input_format", ["txt", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("output_format", ["jsonl", "parquet", "npy", "safetensors"])
def test_every_format_gives_the_same_bits(tmp_path, artifact, vectors, input_format, output_format):
    output = tmp_path / f"out.{output_format}"
    assert embed(artifact, write_input(tmp_path / f"in.{input_format}"), output) == 0
    np.testing.assert_array_equal(read_vectors(output), vectors)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"in.{input_format}", f"out.{output_format}"]


def test_standard_input(tmp_path, artifact, vectors, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert embed(artifact, "-", tmp_path / "out.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), vectors)


def test_every_tokens_vectors(tmp_path, artifact):
    source = write_input(tmp_path / "in.txt", TEXTS[:2])
    for output in (tmp_path / "out.jsonl", tmp_path / "out.parquet"):
        assert embed(artifact, source, output, "--pooling", "none") == 0
    first, second = read_lines(tmp_path / "out.jsonl")
    assert np.shape(first["embedding"]) == (11, 32)
    assert np.shape(second["embedding"]) == (3, 32)
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    np.testing.assert_array_equal(np.float32(rows[0]["embedding"]), np.float32(first["embedding"]))
    assert embed(artifact, source, tmp_path / "out.npy", "--pooling", "none") == 2


def test_fill_mask(tmp_path, artifact):
    masked = [text for text in TEXTS if "[MASK]" in text]
    source = write_input(tmp_path / "in.csv", masked)
    for suffix in ("jsonl", "parquet"):
        output = tmp_path / f"out.{suffix}"
        assert main(["fill-mask", str(artifact), str(source), "--output", str(output), "--top-k", "2"]) == 0
    with open_runtime(artifact) as runtime:
        fill = FillMask(runtime, top_k=2)
        expected = [[[vars(p) for p in mask] for mask in fill(text)] for text in masked]
    rows = read_lines(tmp_path / "out.jsonl")
    assert [row["masks"] for row in rows] == expected
    assert [row["row"] for row in rows] == [2, 3, 4, 5]  # the header is line 1
    found = [row["masks"] for row in parquet.read_table(tmp_path / "out.parquet").to_pylist()]
    assert [[[p["token"] for p in mask] for mask in row] for row in found] == [
        [[p["token"] for p in mask] for mask in row] for row in expected
    ]


def test_another_process_opens_the_same_operator(artifact, vectors):
    spec = pickle.loads(pickle.dumps(OperatorSpec("embed", artifact, {"pooling": "mean"})))
    with spec.open() as embed:
        np.testing.assert_array_equal(embed(TEXTS), vectors)


def test_pairs(tmp_path, artifact):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"q": "这个[MASK]", "a": "很好"}) + "\n", encoding="utf-8")
    options = ["--column", "q", "--pair-column", "a", "--output", str(tmp_path / "out.jsonl")]
    assert main(["fill-mask", str(artifact), str(source), *options]) == 0
    (row,) = read_lines(tmp_path / "out.jsonl")
    assert row["masks"][0][0]["sentence_pair"] == "很好"


BAD = {
    "txt": (b"\xe7\x9a\x84\n\xff\xfe\n" + "的".encode() * 70 + b"\n\xe4\xb8\x80", {2: "UTF-8", 3: "at most 64 tokens"}),
    "jsonl": (
        b'{"text": "\xe7\x9a\x84"}\n{"text": 5}\n{"text"\n"\xe4\xb8\x80"\n{}\n{"text": "\\ud800"}',
        {2: "expected a string; found 5", 3: "is not JSON", 5: "found nothing", 6: "surrogate"},
    ),
    "csv": (b"text,n\n\xe7\x9a\x84,1\n\xff,2\n1\n\xe4\xb8\x80,3\n", {3: "is not UTF-8", 4: "expected 2 columns"}),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_named_and_passed_over(tmp_path, artifact, kind, capsys):
    data, faults = BAD[kind]
    source = tmp_path / f"in.{kind}"
    source.write_bytes(data)
    assert embed(artifact, source, tmp_path / "out.jsonl", "--errors", str(tmp_path / "errors.jsonl")) == 1
    errors = {line["row"]: line["error"] for line in read_lines(tmp_path / "errors.jsonl")}
    assert list(errors) == list(faults)
    for number, part in faults.items():
        assert part in errors[number]
    good = {line["row"]: np.float32(line["embedding"]) for line in read_lines(tmp_path / "out.jsonl")}
    assert len(good) == 2
    assert not set(good) & set(faults)
    with open_runtime(artifact) as runtime:
        np.testing.assert_array_equal(np.stack(list(good.values())), Embedder(runtime)(["的", "一"]))

    capsys.readouterr()
    assert embed(artifact, source, tmp_path / "again.jsonl") == 1
    messages = capsys.readouterr().err
    assert all(f"row {number}: " in messages for number in faults)

    assert embed(artifact, source, tmp_path / "strict.jsonl", "--strict") == 2
    assert f"row {next(iter(faults))}: " in capsys.readouterr().err
    assert not (tmp_path / "strict.jsonl").exists()


def test_in_an_array_a_bad_row_is_nan(tmp_path, artifact):
    source = write_input(tmp_path / "in.txt", ["的", "的" * 70, "一"])
    assert embed(artifact, source, tmp_path / "out.npy") == 1
    found = np.load(tmp_path / "out.npy")
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]


def test_a_line_without_end_is_not_held(tmp_path, artifact):
    source = tmp_path / "in.txt"
    source.write_bytes(b"a" * (3 << 20) + "\n的".encode())
    assert embed(artifact, source, tmp_path / "out.jsonl") == 1
    assert [line["row"] for line in read_lines(tmp_path / "out.jsonl")] == [2]


def test_nothing_is_overwritten_unasked(tmp_path, artifact):
    source, output = write_input(tmp_path / "in.txt"), tmp_path / "out.jsonl"
    output.write_text("mine")
    assert embed(artifact, source, output) == 2
    assert output.read_text() == "mine"
    errors = tmp_path / "errors.jsonl"
    errors.write_text("mine too")
    assert embed(artifact, source, tmp_path / "new.jsonl", "--errors", str(errors)) == 2
    assert errors.read_text() == "mine too"
    assert embed(artifact, source, tmp_path / "new.jsonl", "--errors", str(tmp_path / "new.jsonl")) == 2
    assert embed(artifact, source, output, "--overwrite") == 0
    assert len(read_lines(output)) == len(TEXTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["missing.txt", "--output", "o.jsonl"], "no such file"),
        (["in.txt", "--output", "o.xml"], "expected a name ending in"),
        (["in.txt", "--output", "nowhere/o.jsonl"], "no such folder"),
        (["in.txt", "--output", "o.jsonl", "--pair-column", "b"], "one text in a line"),
        (["in.csv", "--output", "o.jsonl", "--column", "b"], "has no column 'b'; found 'id', 'text'"),
    ],
)
def test_usage_that_cannot_work(tmp_path, artifact, change, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_input(tmp_path / "in.txt")
    write_input(tmp_path / "in.csv")
    assert main(["embed", str(artifact), *change]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["jsonl", slow("parquet"), slow("npy")])
def test_a_killed_run_goes_on_where_it_was(tmp_path, artifact, kind):
    texts = [(TEXTS[number % 6] + str(number)) if number % 50 else "的" * 70 for number in range(1000)]
    source, output, errors = write_input(tmp_path / "in.txt", texts), tmp_path / f"out.{kind}", tmp_path / "e.jsonl"
    whole = tmp_path / f"whole.{kind}"
    assert embed(artifact, source, whole, "--errors", str(tmp_path / "whole.e.jsonl"), "--window", "128") == 1

    # Small windows, so that there are many commits to be killed between and within.
    command = [sys.executable, "-m", "yizhi", "embed", str(artifact), str(source), "--output", str(output)]
    command += ["--errors", str(errors), "--window", "16"]
    state = output.with_name(output.name + ".progress")
    kills, reached = 0, 0
    while kills < 2:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
        while process.poll() is None and position(state) < reached + 150:
            time.sleep(0.002)
        assert process.poll() is None, "ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills, reached = kills + 1, position(state)
        assert not output.exists()
    with open(output.with_name(output.name + ".partial"), "ab") as file:
        file.write(b"half a row")  # what a kill in the middle of a write leaves behind
    assert subprocess.run(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]).returncode == 1
    assert read_lines(errors) == read_lines(tmp_path / "whole.e.jsonl")
    if kind == "parquet":
        assert parquet.read_table(output).equals(parquet.read_table(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()
    assert not state.exists()


def position(state):
    return json.loads(state.read_text())["position"]["records"] if state.exists() else 0


def test_an_unfinished_run_is_not_mixed_with_another(tmp_path, artifact, capsys):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    write_input(source, [*TEXTS, "的" * 70])
    assert embed(artifact, source, output, "--strict") == 2
    assert position(tmp_path / "out.jsonl.progress") == 4
    capsys.readouterr()
    assert embed(artifact, source, output, "--pooling", "cls") == 2
    assert "had other settings" in capsys.readouterr().err
    write_input(source, TEXTS)
    assert embed(artifact, source, output) == 2
    assert "had other input" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["", "hi", "[]", '{"identity": {}}', '{"identity": {}, "position": {"bad": 1}}'])
def test_a_damaged_progress_file_is_named(tmp_path, artifact, capsys, state):
    (tmp_path / "out.jsonl.progress").write_text(state)
    assert embed(artifact, write_input(tmp_path / "in.txt"), tmp_path / "out.jsonl") == 2
    assert "progress:\n  - is not the state of an unfinished run; remove this file" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_input(tmp_path):
    config = {"hidden_size": 512, "num_hidden_layers": 1}
    with Checkpoint.open(write_variant(tmp_path / "checkpoint", "bert", config=config)) as checkpoint:
        artifact = export_artifact(checkpoint, "onnx-int8", tmp_path / "onnx-int8")
    code = (
        "import sys; from yizhi.cli import main; main(sys.argv[1:]);"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    )
    peaks = []
    for rows in (1_000, 12_000):
        source = write_input(tmp_path / f"{rows}.txt", ["你"] * rows)
        command = [sys.executable, "-c", code, "embed", str(artifact), str(source), "--threads", "1"]
        command += ["--output", str(tmp_path / f"{rows}.npy"), "--window", "256"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 8_000  # kB; the vectors that were added are 22,000


@pytest.mark.parametrize("option", ["--output", "--errors"])
def test_what_is_read_is_not_written_to(artifact, tmp_path, capsys, option):
    """`--errors in.txt --overwrite` emptied the input."""
    source = write_input(tmp_path / "in.jsonl")
    before = source.read_bytes()
    output, errors = (source, tmp_path / "e.jsonl") if option == "--output" else (tmp_path / "out.jsonl", source)
    assert embed(artifact, source, output, "--errors", str(errors), "--overwrite") == 2
    assert "is the input; write to another file" in capsys.readouterr().err
    assert source.read_bytes() == before
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("output", ["o.jsonl", "folder.jsonl"])
@pytest.mark.parametrize("errors", ["none/e.jsonl", "folder.jsonl"])
def test_places_that_cannot_be_written_to(artifact, tmp_path, capsys, output, errors):
    source = write_input(tmp_path / "in.txt")
    (tmp_path / "folder.jsonl").mkdir()
    assert embed(artifact, source, tmp_path / output, "--errors", str(tmp_path / errors), "--overwrite") == 2
    said = capsys.readouterr().err
    assert "no such folder" in said or "is a folder; give the name of a file" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.jsonl", "in.txt"]


def test_an_input_that_ends_a_run_leaves_nothing(artifact, tmp_path):
    """Windows before the bad line count, and nothing could go on with them once the input is mended."""
    source = write_input(tmp_path / "in.csv", TEXTS * 3)
    sound = source.read_bytes()
    source.write_bytes(sound + b'x,"y\n')
    output = tmp_path / "o.jsonl"
    assert embed(artifact, source, output, "--errors", str(tmp_path / "e.jsonl")) == 2
    assert list(tmp_path.iterdir()) == [source]
    source.write_bytes(sound)
    assert embed(artifact, source, output, "--errors", str(tmp_path / "e.jsonl")) in (0, 1)


def test_a_text_that_is_too_long_names_the_option_that_cuts_it(artifact, tmp_path, capsys):
    source = write_input(tmp_path / "in.txt", ["天" * 200])
    for code, *arguments in ((2, "天" * 200), (1, str(source), "--output", str(tmp_path / "out.jsonl"))):
        assert main(["embed", str(artifact), *arguments]) == code
        assert "found 202: --truncate cuts what is too long" in capsys.readouterr().err
