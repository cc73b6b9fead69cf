"""`yizhi inspect` shows which files count, how text becomes ids, and how a text's vector is made."""

import json

import pytest
from rich.console import Console

from tests.checkpoints import write_json, write_variant
from yizhi.catalogue.catalogue import read_catalogue
from yizhi.cli import main
from yizhi.reports.known import print_models


def inspect(folder, capsys):
    assert main(["inspect", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_file_is_told_and_how_text_becomes_ids(tmp_path, capsys):
    folder = write_variant(tmp_path / "checkpoint", "bert", tokenizer_config={"do_lower_case": False})
    (folder / "README.md").write_text("of no weight")
    found = inspect(folder, capsys)
    assert {name: why.partition(":")[0] for name, why in found["files"].items()} == {
        "README.md": "not read",
        "config.json": "read",
        "model.safetensors": "read",
        "tokenizer_config.json": "read",
        "vocab.txt": "read",
    }
    assert "lower case" not in found["text"]["normalizer"]
    assert "mask_token [MASK] (4)" in found["text"]["special_tokens"]
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "README.md: not read: a document or data" in shown
    assert "mask_token [MASK] (4)" in shown


def test_pooling_of_the_folders_own_modules_is_told(tmp_path, capsys):
    folder = write_variant(tmp_path / "checkpoint", "bert-no-head")
    names = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(names.items())
    ]
    (folder / "1_Pooling").mkdir()
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    assert inspect(folder, capsys)["sentence_embedding"] == {"mode": "cls", "normalize": True}


def test_modules_and_what_they_do_are_told_in_words(tmp_path, capsys, monkeypatch):
    folder = write_variant(tmp_path / "checkpoint", "bert-dense")
    monkeypatch.setattr("yizhi.commands.inspect.make_console", lambda: Console(width=80))
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "mean, dense, dense, 12 dimensions, normalized" in " ".join(shown.split())
    assert "{" not in shown
    assert "…" not in shown
    digest = inspect(folder, capsys)["sha256"]["model.safetensors"]
    assert digest in "".join(shown.split())
    for name in ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
        assert f"{name}: read" in " ".join(shown.split())


@pytest.mark.parametrize("width", [80, 160])
def test_the_list_of_models_keeps_its_advice_on_a_narrow_terminal(width, capsys):
    print_models(Console(width=width), read_catalogue().values())
    shown = capsys.readouterr().out
    assert "…" not in shown
    headings = shown.splitlines()[0]
    assert "MLM head" in headings
    assert "choose it" in headings
    assert ("parameters" in headings) == (width == 160)
    assert all(entry.name in shown for entry in read_catalogue().values())
    words = shown.split()
    assert all(set(entry.choose.text.split()) <= set(words) for entry in read_catalogue().values())
    assert max(map(len, shown.splitlines())) <= width


def test_a_path_that_is_not_there_is_said_to_be_so(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "nowhere:\n  - no such file or folder" in capsys.readouterr().err
