"""`yizhi finetune` as it is typed: what it prints, and how it refuses."""

import json
import shlex
from pathlib import Path

import pytest

from yizhi.cli import build_parser, main

pytest.importorskip("peft")
pytest.importorskip("seqeval")

LINES = "北\tB-LOC\n京\tI-LOC\n好\tO\n\n天\tO\n"


def finetune(*arguments):
    return main(["finetune", *map(str, arguments), "--device", "cpu"])


@pytest.mark.slow
def test_a_tagger_is_trained_and_described(make_checkpoint, tmp_path, capsys):
    (tmp_path / "train.txt").write_text(LINES, encoding="utf-8")
    common = ["--task", "tag", "--train", tmp_path / "train.txt", "--eval", tmp_path / "train.txt", "--max-steps", 2]
    assert finetune(make_checkpoint(), *common, "--out", tmp_path / "ner", "--freeze-layers", 1) == 0
    printed = capsys.readouterr()
    assert "2 examples in 2 rows; 3 labels: O, B-LOC, I-LOC" in printed.out
    assert "random at first: classifier.weight, classifier.bias" in printed.out
    assert "2 steps" in printed.out
    assert "on 2 examples\n" in printed.out
    assert "guessing by how often a label is: precision 0.0000, recall 0.0000, f1 0.0000\n" in printed.out
    assert (tmp_path / "ner" / "model.safetensors").stat().st_mode & 0o777 == (
        tmp_path / "train.txt"
    ).stat().st_mode & 0o777
    command = printed.err.splitlines()[-1]
    assert build_parser().parse_args(shlex.split(command)[1:]).out == Path("dist/ner")
    assert finetune(make_checkpoint(), *common, "--out", tmp_path / "lora", "--method", "lora", "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


@pytest.mark.slow
def test_a_score_that_guessing_reaches_is_called_that(make_checkpoint, tmp_path, capsys):
    """Forty rows and nine steps ended at an F1 of 0.45, with no word that it is chance."""
    rows = [{"text": "北京好" if number % 3 else "天地", "label": "ab"[number % 2]} for number in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    data = ["--train", tmp_path / "train.jsonl", "--eval", tmp_path / "train.jsonl", "--max-steps", 1]
    assert finetune(make_checkpoint(), "--task", "classify", *data, "--out", tmp_path / "new") == 0
    printed = capsys.readouterr().out
    assert "on 40 examples" in printed
    assert "guessing by how often a label is: accuracy 0." in printed
    assert "no better than guessing (f1): it needs more data or more steps" in printed
    recorded = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert recorded["evaluated"] == 40
    assert 0.4 < recorded["guess"]["f1"] < 0.6


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--freeze-layers", "1", "--method", "lora"], "--freeze-layers: LoRA freezes every layer"),
        (["--lora-rank", "4", "--keep-lora"], "--lora-rank: needs --method lora\n  - --keep-lora: needs --method lora"),
        (["--freeze-layers", "1", "--method", "adapter"], "--freeze-layers: an adapter freezes every layer"),
        (["--adapter-kind", "par_bn"], "--adapter-kind, --adapter-reduction: need --method adapter"),
        (["--problem", "multi"], "--problem: needs --task classify"),
        (["--column", "text"], "--column: needs a classifier"),
        (["--learning-rate", "-1", "--warmup", "2"], "learning_rate: expected more than 0; found -1.0\n  - warmup"),
        (["--max-length", "65"], "--max-length:\n  - expected 8 … 64; found 65"),
        (["--max-length", "7"], "--max-length:\n  - expected 8 … 64; found 7"),
        (["--eval", "none.txt"], "none.txt: cannot be read: No such file or directory"),
    ],
)
def test_bad_use_is_told_and_leaves_nothing(make_checkpoint, tmp_path, capsys, arguments, fault):
    (tmp_path / "train.txt").write_text(LINES, encoding="utf-8")
    common = ["--task", "tag", "--train", tmp_path / "train.txt", "--out", tmp_path / "ner"]
    assert finetune(make_checkpoint(), *common, *arguments) == 2
    assert fault in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-bert", "train.txt"]


def test_what_is_not_installed_is_named(monkeypatch, make_checkpoint, tmp_path, capsys):
    from yizhi.training import requirements

    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name in ("peft", "sklearn") else name)
    assert finetune(make_checkpoint(), "--task", "tag", "--train", "a.txt", "--out", tmp_path / "ner") == 2
    assert "needs peft, scikit-learn: pip install 'yizhi[training]'" in capsys.readouterr().err
