"""Heads that give labels: what the configuration must say of them, and what artifacts say."""

import json

import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import VARIANTS, write_variant
from yizhi.errors import InputError
from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES
from yizhi.reading.checkpoint import POOLER, Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.release.schema import find_violations


def drop(part):
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if part in name]


@pytest.mark.parametrize(
    ("variant", "changes", "fault"),
    [
        ("bert-classifier", {"config": {"id2label": {"0": "差", "2": "好"}}}, "1 is missing, '2' is there"),
        ("bert-classifier", {"config": {"id2label": {"0": "差", "1": None}}}, "id2label: expected an object"),
        ("bert-classifier", {"config": {"num_labels": 0}}, "num_labels: expected an integer"),
        ("bert-classifier", {"config": {"num_labels": 2, "id2label": {"0": "差"}}}, "found 2, but id2label names 1"),
        ("bert-classifier", {"config": {"problem_type": "ranking"}}, "problem_type: expected one of regression"),
        ("albert-reader", {"config": {"num_labels": 3}}, "expected 2, the start and the end of an answer; found 3"),
        ("bert-classifier", {"alter": drop("pooler")}, "bert.pooler.dense.weight: missing"),
        ("bert-tagger", {"alter": drop("classifier")}, "none of that head's tensors is present"),
        ("bert-tagger", {"config": {"architectures": ["BertForMaskedLM"]}}, "to say which"),
        ("electra-classifier", {"config": {"architectures": ["ElectraModel"]}}, "found ElectraModel"),
    ],
)
def test_a_contradiction_is_explained(variant, changes, fault, tmp_path):
    with pytest.raises(InputError, match=fault):
        Checkpoint.open(write_broken(tmp_path, variant, **changes))


def write_broken(folder, variant, config=None, alter=None):
    """A sound variant whose `config.json` was changed afterwards."""
    write_variant(folder, variant, alter=alter)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **(config or {})}), encoding="utf-8")
    return folder


def test_another_number_of_labels_is_one_fault_that_names_both(tmp_path):
    folder = write_broken(tmp_path, "bert-tagger", {"id2label": {"0": "O", "1": "B", "2": "I"}})
    with pytest.raises(InputError) as error:
        Checkpoint.open(folder)
    assert error.value.faults == ["classifier.weight: has 5 labels; config.json has 3 (id2label, num_labels)"]


@pytest.mark.parametrize(
    ("variant", "labels", "problem_type"),
    [
        ("bert-classifier", ["差", "中", "好"], "single_label_classification"),
        ("electra-multi-label", ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"], "multi_label_classification"),
        ("albert-regression", ["相似度"], "regression"),
        ("bert-tagger", ["O", "B-人", "I-人", "B-地", "I-地"], None),
        ("megatron-bert-reader", ["start", "end"], None),
        ("electra-discriminator", None, None),
    ],
)
def test_an_artifact_names_its_labels(variant, labels, problem_type, tmp_path):
    checkpoint = Checkpoint.open(write_variant(tmp_path / "checkpoint", variant))
    description = Artifact.read(export_artifact(checkpoint, "pytorch", tmp_path / "pytorch")).description
    assert (description.get("labels"), description.get("problem_type")) == (labels, problem_type)
    assert not find_violations(description, "artifact.v1")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if VARIANTS[name].get("task") in LABEL_CLASS_SUFFIXES])
def test_transformers_finds_every_key_and_no_other(variant, tmp_path):
    transformers = pytest.importorskip("transformers")
    checkpoint = Checkpoint.open(write_variant(tmp_path / "checkpoint", variant, pooler=True))
    artifact = export_artifact(checkpoint, "pytorch", tmp_path / "pytorch")
    class_name = checkpoint.published_config()["architectures"][0]
    auto_class = getattr(transformers, f"AutoModelFor{class_name.rpartition('For')[2]}")
    model, report = auto_class.from_pretrained(artifact, output_loading_info=True)
    assert {kind: list(keys) for kind, keys in report.items() if keys} == {}
    assert type(model).__name__ == class_name
    apart = checkpoint.spec.pooler is not None and not checkpoint.spec.head_reads_pooler
    assert (artifact / POOLER).exists() == apart
