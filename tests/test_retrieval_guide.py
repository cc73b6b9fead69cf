"""The commands of docs/retrieval.md run, on a corpus of a few lines; and what they measure is counted right."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_variant
from tests.imports import ROOT

pytest.importorskip("faiss")

EXAMPLES = ROOT / "docs" / "examples"
LINES = [
    "北京是中国的首都。",
    "这个酒店的服务很好！",
    "我住在北京。",
    "你去说，我来。",
    "天上有人说好。",
    "的确很好说。",
]


@pytest.fixture(scope="module")
def guide():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("retrieval", EXAMPLES / "retrieval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sentence_with_the_answer_is_the_one_to_find(guide, tmp_path):
    context = "北京是首都。酒店很好！我来。"
    question = {"question": "哪里很好？", "answers": [{"text": "酒店", "answer_start": 6}]}
    (tmp_path / "cmrc.json").write_text(
        json.dumps({"data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}), encoding="utf-8"
    )
    passages, queries = guide.read_cmrc(tmp_path / "cmrc.json")
    assert passages == ["北京是首都。", "酒店很好！", "我来。"]
    assert queries == [("哪里很好？", 1)]


def test_nothing_that_is_measured_is_trained_on(guide, tmp_path, capsys):
    lines = [f"{number:02} 号酒店的服务很好" for number in range(40)]
    guide.write_data(lines, [(line[:2], index) for index, line in enumerate(lines)], tmp_path)
    assert capsys.readouterr().out == "40 documents, 10 queries to search with\n"
    measured = {lines[row["relevant"]] for row in guide.read_rows(tmp_path / "queries.jsonl")}
    files = sorted(tmp_path.glob("*.csv"))
    assert [path.name for path in files] == [f"{use}-{part}.csv" for use in guide.ALIKE for part in ("dev", "train")]
    for path in files:
        assert not any(line in path.read_text(encoding="utf-8") for line in measured)


def test_search_and_score_count_what_was_found(guide, tmp_path, capsys):
    guide.write_rows(tmp_path / "documents.jsonl", ({"document": str(number)} for number in range(12)))
    guide.write_rows(tmp_path / "queries.jsonl", [{"query": "a", "relevant": 0}, {"query": "b", "relevant": 2}])
    np.save(tmp_path / "documents.npy", np.eye(12, dtype=np.float32) - np.tri(12, k=-1, dtype=np.float32) / 100)
    np.save(tmp_path / "queries.npy", np.float32([[1, *[0] * 11], [0, 1, 0.9, *[0] * 9]]))
    paths = [tmp_path / name for name in ("documents.npy", "queries.npy", "candidates.jsonl")]
    guide.search(tmp_path, *paths)
    assert capsys.readouterr().out == "recall@1 0.500  recall@5 1.000  recall@10 1.000\n"
    pairs = guide.read_rows(tmp_path / "candidates.jsonl")
    right = [pair["index"] == (0, 2)[pair["of"]] for pair in pairs]
    guide.write_rows(tmp_path / "scores.jsonl", ({"score": float(is_right)} for is_right in right))
    guide.score(tmp_path, tmp_path / "candidates.jsonl", tmp_path / "scores.jsonl")
    assert capsys.readouterr().out == "recall@1 1.000  recall@5 1.000  recall@10 1.000\n"


def test_every_command_of_the_guide_is_in_the_script():
    guide = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")
    script = (EXAMPLES / "retrieval.sh").read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:\$ )?yizhi ([\w-]+)", guide, re.MULTILINE))
    assert named >= {"train-embeddings", "finetune", "export", "embed", "rerank"}
    assert named <= {*re.findall(r"yizhi ([\w-]+)", script), "models"}


@pytest.mark.slow
def test_the_script_runs(tmp_path):
    pytest.importorskip("accelerate")
    base = write_variant(tmp_path / "base", "bert")
    passages = tmp_path / "passages.txt"
    passages.write_text("\n".join(f"{one}{other}" for one in LINES for other in LINES), encoding="utf-8")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "yizhi").write_text(f'#!/bin/sh\nexec {sys.executable} -m yizhi "$@"\n')
    (programs / "yizhi").chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    small = {"EPOCHS": "1", "MAX_LENGTH": "24", "WORK": str(tmp_path / "work"), "PATH": path, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [EXAMPLES / "retrieval.sh", base, passages],
        env={**os.environ, **small},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("recall@1 ") >= 4
    ranks = ran.stdout.splitlines()[-3:]
    assert [len(line.split("\t")) for line in ranks] == [3, 3, 3]
