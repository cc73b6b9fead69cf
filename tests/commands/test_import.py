import json
from pathlib import Path

import pytest

from tests.checkpoints import write_json, write_tensors, write_variant
from yizhi.cli import main
from yizhi.reading.checkpoint import Checkpoint


def test_import_prints_what_it_did(make_checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture):
    source = make_checkpoint("bert-gamma-beta", position_ids=True)
    assert main(["import", str(source), "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "safetensors: bert, fill-mask",
        "61 tensors read, 1 ignored, 60 written",
        "of these 16 renamed",
    ]
    assert any(line.startswith("  ignored bert.embeddings.position_ids: ") for line in lines)
    hashed = {line.split()[-1] for line in lines if line.startswith("  sha256 ")}
    assert hashed == {path.name for path in (tmp_path / "out").iterdir()} >= {"config.json", "tokenizer.json"}


def test_import_as_json(make_checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["import", str(make_checkpoint("bert-fp16")), "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] | {"read": 60, "widened to float32": 60} == report["counts"]
    assert report["tensors"][0] == {
        "name": "bert.embeddings.word_embeddings.weight",
        "source_name": "bert.embeddings.word_embeddings.weight",
        "source_dtype": "F16",
        "changes": ["widened to float32"],
    }


def write_adapter(folder: Path) -> Path:
    """An adapter for the variant `bert`, as the adapters library's `save_adapter` leaves it."""
    whole = write_variant(folder.with_name("whole"), "bert-seq_bn")
    entry = json.loads((whole / "config.json").read_text())["adapters"]
    folder.mkdir()
    config = {
        "name": "senti/ment",
        "model_type": "bert",
        "hidden_size": 32,
        "config": entry["config_map"]["configuration"],
    }
    write_json(folder / "adapter_config.json", config)
    with Checkpoint.open(whole) as checkpoint:
        names = [parameter.name for parameter in checkpoint.parameters() if ".adapters." in parameter.name]
        tensors = {name.replace(".senti.", ".senti/ment."): checkpoint.array(name) for name in names}
        write_tensors(folder / "adapter.safetensors", tensors)
    return folder


def test_an_adapter_goes_in(make_checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture):
    base, adapter, out = make_checkpoint("bert"), write_adapter(tmp_path / "adapter"), tmp_path / "out"
    assert main(["import", str(base), "--adapter", str(adapter), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "72 tensors read, 0 ignored, 72 written\nof these 12 renamed\n" in printed
    assert "note adapter senti_ment (there senti/ment), of an unknown version of the library" in printed
    assert main(["inspect", str(out)]) == 0
    assert "adapter senti_ment" in " ".join(capsys.readouterr().out.split())


def test_bad_input_is_exit_code_2(make_checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture):
    source = make_checkpoint("bert")
    (source / "vocab.txt").unlink()
    assert main(["import", str(source), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"yizhi: {source}:\n  - has no vocab.txt: give it with --vocab\n"
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_names_from_a_file_do_not_reach_the_terminal(make_checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture):
    source = make_checkpoint(
        "bert", alter=lambda tensors: tensors.update({"\x1b[31m.position_ids": next(iter(tensors.values()))})
    )
    main(["import", str(source), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
