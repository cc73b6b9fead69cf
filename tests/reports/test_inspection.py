"""`yizhi inspect` shows which files count, how text becomes ids, and how a text's vector is made."""

import json

from tests.checkpoints import write_json, write_variant
from yizhi.cli import main


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


def test_a_path_that_is_not_there_is_said_to_be_so(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "nowhere:\n  - no such file or folder" in capsys.readouterr().err
