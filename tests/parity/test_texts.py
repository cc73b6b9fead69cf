"""The text contract: an artifact's own files do with text what the checkpoint's do, or the gate is red."""

import json

import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.model.spec import Pooling
from yizhi.parity.golden import Golden
from yizhi.parity.texts import SEPARATING, check_texts, make_contract
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact


@pytest.fixture
def subject(tmp_path):
    def make(variant="bert", pooling=None, target="pytorch", **changes):
        folder = write_variant(tmp_path / "checkpoint", variant, **changes)
        with Checkpoint.open(folder, pooling) as checkpoint:
            artifact = Artifact.read(export_artifact(checkpoint, target, tmp_path / "artifact"))
            return artifact, make_contract(checkpoint)

    return make


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


@pytest.mark.parametrize("variant", ["bert", "albert", "electra-tagger", "bert-reader", "bert-regression"])
def test_a_sound_artifact_keeps_it(subject, variant):
    assert check_texts(*subject(variant)) == []


@pytest.mark.parametrize("settings", [{"do_lower_case": False}, {"model_max_length": 16}, {"truncation_side": "left"}])
def test_settings_of_the_folder_are_kept(subject, settings):
    artifact, contract = subject(tokenizer_config=settings)
    assert check_texts(artifact, contract) == []
    edit(artifact.folder / "tokenizer_config.json", lambda content: content.update(model_max_length=5))
    assert check_texts(artifact, contract)[0] == "text: tokenizer_config.json: differs from the checkpoint's"


def test_every_file_of_the_tokenizer_counts(subject):
    artifact, contract = subject()
    assert set(contract.files) == {"config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"}
    for name in set(contract.files) - {"config.json"}:  # tests/pipeline/test_tampered.py
        content = (artifact.folder / name).read_bytes()
        (artifact.folder / name).write_bytes(content + b"\n")
        assert check_texts(artifact, contract)[0] == f"text: {name}: differs from the checkpoint's"
        (artifact.folder / name).unlink()
        assert check_texts(artifact, contract)[0] == f"text: {name}: is missing"
        (artifact.folder / name).write_bytes(content)
    assert check_texts(artifact, contract) == []


def test_a_text_that_is_read_differently_is_shown(subject):
    artifact, contract = subject()
    edit(artifact.folder / "tokenizer.json", lambda content: content["normalizer"].update(lowercase=False))
    edit(artifact.folder / "tokenizer_config.json", lambda content: content.update(do_lower_case=False))
    faults = check_texts(artifact, contract)
    assert any(": token 1: expected ids [" in fault for fault in faults)
    assert sum("expected ids" in fault for fault in faults) <= 3


def test_labels_of_both_files_count(subject):
    artifact, contract = subject("bert-classifier")
    assert contract.labels == ("差", "中", "好")
    edit(artifact.folder / "config.json", lambda content: content["id2label"].update({"0": "好", "2": "差"}))
    (fault,) = check_texts(artifact, contract)
    assert fault == "text: config.json: labels: expected ['差', '中', '好']; found ['好', '中', '差']"


@pytest.mark.parametrize("target", ["pytorch", "onnx"])
def test_another_pooling_is_found(subject, target):
    artifact, contract = subject("bert-no-head", Pooling("mean", normalize=True), target)
    assert check_texts(artifact, contract) == []

    def change(content):
        content.update(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)

    edit(artifact.folder / "1_Pooling" / "config.json", change)
    (fault,) = check_texts(artifact, contract)
    assert fault == "text: modules.json: pooling: expected mean, normalized; found cls, normalized"
    artifact.description["pooling"]["normalize"] = False
    assert "text: artifact.json: pooling: expected mean, normalized; found mean" in check_texts(artifact, contract)


def test_the_contract_is_read_as_it_was_written(tmp_path):
    with Checkpoint.open(write_variant(tmp_path / "checkpoint", "bert-tagger"), Pooling("cls", False)) as checkpoint:
        golden = Golden.make(checkpoint)
    golden.write(tmp_path)
    assert Golden.read(tmp_path).text == golden.text
    assert {case.text for case in golden.text.cases} > set(SEPARATING)


def test_ids_are_auto_tokenizers(subject):
    transformers = pytest.importorskip("transformers")
    artifact, contract = subject()
    theirs = transformers.AutoTokenizer.from_pretrained(artifact.folder)
    for case in contract.cases:
        assert tuple(theirs(case.text).input_ids) == case.ids, case.text
