"""Every file of a checkpoint folder is read, known to change no answer, or refused by name."""

import json
import re
from pathlib import Path

import pytest

from tests.checkpoints import write_json, write_variant
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.model.spec import Pooling
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.folder_files import RULES, find_rule
from yizhi.reading.importers import import_checkpoint
from yizhi.release.manifest import read_manifest

DOCUMENT = Path(__file__).parents[2] / "docs" / "importing.md"


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        Checkpoint.open(folder)
    return caught.value.faults


def test_a_file_that_nobody_understands_stops_the_export(make_checkpoint):
    folder = make_checkpoint()
    (folder / "head_config.json").write_text("{}")
    (folder / "README.md").write_text("of no weight")
    (folder / "onnx").mkdir()
    faults = faults_of(folder)
    assert faults[0].startswith("head_config.json: could change an answer, and is not understood")
    assert "`ignored_files` passes over a file" in faults[1]
    with Checkpoint.open(folder, ignored_files=["head_config.json"]) as checkpoint:
        assert checkpoint.ignored_files == ("head_config.json",)
        assert checkpoint.file_uses["head_config.json"] == "ignored: as asked"
        assert checkpoint.file_uses["README.md"].startswith("not read: ")
        assert checkpoint.file_uses["model.safetensors"] == "read: the weights"


def test_an_adapter_beside_its_base_is_refused_with_advice(make_checkpoint):
    folder = make_checkpoint()
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 4})
    (folder / "adapter_model.safetensors").write_bytes(b"")
    faults = faults_of(folder)
    assert [fault.partition(":")[0] for fault in faults[:2]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert "`yizhi import` puts it into the checkpoint" in faults[0]


def test_another_kind_of_tokenizer_is_refused(make_checkpoint):
    folder = make_checkpoint()
    (folder / "spiece.model").write_bytes(b"")
    assert faults_of(folder)[0] == "spiece.model: is another tokenizer, which AutoTokenizer may prefer"


def test_the_manifest_records_what_was_passed_over(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    (folder / "strange.json").write_text("{}")
    command = ["export", str(folder), "--out", str(tmp_path / "release"), "--target", "pytorch"]
    assert main(command) == 2
    assert not (tmp_path / "release").exists()
    assert main([*command, "--ignore-file", "strange.json"]) == 0
    assert read_manifest(tmp_path / "release")["source"]["ignored_files"] == ["strange.json"]


def test_dropped_heads_are_named(make_checkpoint):
    import numpy as np

    def alter(tensors):
        tensors["cls.seq_relationship.weight"] = np.ones((2, 32), np.float32)
        tensors["cls.seq_relationship.bias"] = np.ones(2, np.float32)

    with Checkpoint.open(make_checkpoint(alter=alter)) as checkpoint:
        assert checkpoint.notes() == [
            "cls.seq_relationship.weight, cls.seq_relationship.bias: dropped: the next-sentence head; no output uses it"
        ]


def test_the_table_in_the_documentation():
    text = DOCUMENT.read_text(encoding="utf-8")
    missing = [row for rule in RULES if (row := f"| `{rule.pattern}` | {rule.use} | {rule.why} |") not in text]
    assert missing == []
    assert find_rule("tokenizer.json").use == "read"
    assert find_rule("something.json") is None


# --- sentence-transformers -----------------------------------------------------------------------


def write_sentence_model(folder: Path, pooling=None, kinds=("Transformer", "Pooling", "Normalize"), settings=None):
    """The files that sentence-transformers writes beside a model; names of classes as release 6 has them."""
    paths = {"Transformer": "", **{kind: f"{number}_{kind}" for number, kind in enumerate(kinds) if number}}
    module = "sentence_transformers.sentence_transformer.modules"
    modules = [
        {"idx": number, "name": str(number), "path": paths[kind], "type": f"{module}.{kind.lower()}.{kind}"}
        for number, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", pooling or {"embedding_dimension": 32, "pooling_mode": "cls"})
    write_json(folder / "sentence_bert_config.json", settings or {"max_seq_length": 16, "do_lower_case": False})
    return folder


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
    ],
)
def test_pooling_and_length_are_the_folder_s(make_checkpoint, pooling, mode):
    folder = write_sentence_model(make_checkpoint(), pooling)
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.spec.pooling == Pooling(mode, normalize=True)
        assert checkpoint.text.length(64) == 16
        assert {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"} <= checkpoint.digest().keys()
    with Checkpoint.open(folder, Pooling("mean")) as checkpoint:
        assert checkpoint.spec.pooling == Pooling("mean")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"kinds": ("Transformer", "Pooling", "WordWeights")},
            "modules.json: expected Transformer, Pooling and perhaps",
        ),
        (
            {"kinds": ("Transformer", "Pooling", "Normalize", "Dense")},
            "modules.json: expected Transformer, Pooling and p",
        ),
        ({"kinds": ("Transformer", "Pooling", "Dense")}, "2_Dense/config.json: the file is missing"),
        ({"pooling": {"pooling_mode": "mean_sqrt_len_tokens"}}, "1_Pooling/config.json: pooling: expected one of"),
        ({"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}}, "1_Pooling/config.json: p"),
        ({"pooling": {"pooling_mode": "cls", "include_prompt": False}}, "1_Pooling/config.json: include_prompt"),
        ({"settings": {"max_seq_length": "16"}}, "sentence_bert_config.json: max_seq_length: expected a number"),
        ({"settings": {"do_lower_case": True}}, "sentence_bert_config.json: do_lower_case: sentence"),
        ({"settings": {"tokenizer_args": {"do_lower_case": False}}}, "sentence_bert_config.json: tokenizer_args: not"),
        ({"settings": {"config_args": {"hidden_act": "relu"}}}, "sentence_bert_config.json: config_args: not computed"),
        ({"settings": {"processing_kwargs": {"text": {"max_length": 4}}}}, "sentence_bert_config.json: processing_kwa"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(make_checkpoint, change, says):
    folder = write_sentence_model(make_checkpoint(tokenizer_config={"do_lower_case": False}), **change)
    (fault,) = faults_of(folder)
    assert fault.startswith(says)
    if "WordWeights" in change.get("kinds", ()):
        assert "WordWeights is not computed here" in fault


def test_modules_of_another_library_are_no_modules_of_ours(make_checkpoint):
    folder = write_sentence_model(make_checkpoint())
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "custom_st.Pooling"
    write_json(folder / "modules.json", modules)
    assert "custom_st.Pooling is not computed here" in faults_of(folder)[0]


@pytest.mark.parametrize("where", ["a" * 5000, "a/" * 5000, "1_Pooling\0", "../1_Pooling", "/1_Pooling"])
def test_modules_lie_in_folders_that_can_be(make_checkpoint, where):
    folder = make_checkpoint()
    write_sentence_model(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = where
    write_json(folder / "modules.json", modules)
    assert faults_of(folder)[0].startswith("modules.json: expected a list of modules; found ")


def test_values_that_are_no_names_are_refused(make_checkpoint):
    folder = make_checkpoint()
    write_sentence_model(folder)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": [{}]})
    write_json(folder / "config_sentence_transformers.json", {"default_prompt_name": ["query"]})
    assert [fault.partition(": expected")[0] for fault in faults_of(folder)] == [
        "config_sentence_transformers.json: default_prompt_name",
        "1_Pooling/config.json: pooling",
    ]


def test_a_dense_module_without_weights_is_not_taken_for_the_next(tmp_path):
    folder = write_variant(tmp_path, "bert-dense")
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert faults_of(folder) == [
        "2 Dense modules, 1 of them with model.safetensors; `yizhi import` reads a pytorch_model.bin"
    ]


def test_vectors_that_are_cut_are_refused(make_checkpoint):
    folder = write_sentence_model(make_checkpoint())
    write_json(folder / "config_sentence_transformers.json", {"truncate_dim": 8})
    assert "truncate_dim: sentence-transformers cuts the vector after Normalize" in faults_of(folder)[0]
    write_json(folder / "config_sentence_transformers.json", {"truncate_dim": None, "similarity_fn_name": "cosine"})
    Checkpoint.open(folder).close()


@pytest.mark.parametrize("name", ["weird.json", "merges.txt", "spiece.model", "bert_config.json"])
def test_an_import_refuses_what_an_export_does(make_checkpoint, tmp_path, name):
    """`import` passed over them, and the export of its result knew nothing of them."""
    folder = make_checkpoint()
    (folder / name).write_text("{}")
    with pytest.raises(InputError, match=re.escape(name)):
        import_checkpoint(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    import_checkpoint(folder, tmp_path / "out", ignored_files=[name])
    # A file of weights that is named alone may lie among anything.
    import_checkpoint(folder / "model.safetensors", tmp_path / "alone")


def test_an_import_keeps_how_sentence_transformers_pools(make_checkpoint, tmp_path):
    folder = write_sentence_model(make_checkpoint())
    import_checkpoint(folder, tmp_path / "out")
    with Checkpoint.open(folder) as before, Checkpoint.open(tmp_path / "out") as after:
        assert after.spec.pooling == before.spec.pooling is not None
        assert after.text.length(64) == before.text.length(64) == 16
    write_json(folder / "config_sentence_transformers.json", {"truncate_dim": 8})
    with pytest.raises(InputError, match="truncate_dim"):
        import_checkpoint(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_input_names": ["attention_mask"]}, "model_input_names: expected a list with input_ids"),
        ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type: is a Japanese tokenizer's"),
    ],
)
def test_settings_that_give_other_inputs_are_refused(make_checkpoint, settings, says):
    folder = make_checkpoint(tokenizer_config=settings)
    assert any(says in fault for fault in faults_of(folder))


def test_a_class_that_config_json_alone_names(make_checkpoint):
    folder = make_checkpoint(config={"tokenizer_class": "BertJapaneseTokenizer"})
    assert any("config.json: tokenizer_class: expected one of" in fault for fault in faults_of(folder))


def test_another_mark_of_words_that_go_on(make_checkpoint, tmp_path):
    from transformers import BertTokenizerFast

    folder = make_checkpoint()
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["model"]["continuing_subword_prefix"] = "@@"
    write_json(folder / "tokenizer.json", saved)
    assert any("continuing_subword_prefix: expected '##'; found '@@'" in fault for fault in faults_of(folder))


def test_a_prompt_before_every_text_is_refused(make_checkpoint):
    folder = write_sentence_model(make_checkpoint())
    prompts = {"prompts": {"query": "问："}, "default_prompt_name": None}
    write_json(folder / "config_sentence_transformers.json", prompts)
    with Checkpoint.open(folder) as checkpoint:
        assert "query" in checkpoint.notes()[0]
    write_json(folder / "config_sentence_transformers.json", {**prompts, "default_prompt_name": "query"})
    assert "puts '问：' before every text" in faults_of(folder)[0]
    with Checkpoint.open(folder, ignored_files=["config_sentence_transformers.json"]):
        pass


def test_a_release_pools_as_sentence_transformers_does(make_checkpoint, tmp_path):
    """The vectors of every text, against the formula of CLS and Normalize on transformers' own hidden states."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tests.artifacts import export_artifact
    from yizhi.runtimes import Embedder, open_runtime

    folder = write_sentence_model(make_checkpoint())
    texts = ["北京的天地很好", "hello", "的" * 40]
    with Checkpoint.open(folder) as checkpoint:
        artifact = export_artifact(checkpoint, "pytorch", tmp_path / "artifact")
        assert json.loads((artifact / "sentence_bert_config.json").read_text())["max_seq_length"] == 16
    with open_runtime(artifact) as runtime:
        found = Embedder(runtime, long="truncate")(texts)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    for text, vector in zip(texts, found, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            first = model(**inputs).last_hidden_state[0, 0]
        np.testing.assert_allclose(vector, (first / first.norm()).numpy(), atol=1e-5)
