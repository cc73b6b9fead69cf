"""The bill of materials and the provenance that travel with a release."""

import json
import re
from pathlib import Path

import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.parity.golden import Golden
from yizhi.pipeline.export import describe_source
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import CARD, Artifact
from yizhi.release.documents import write_documents
from yizhi.release.manifest import BILL_OF_MATERIALS, GOLDEN, PROVENANCE, list_documents
from yizhi.storage.digests import sha256_of_file

PARITY = {
    "device": "cpu",
    "cosine": {},
    "quality": None,
    "label_error": None,
    "worst": {"logits": {"error": 4.3e-06}, "hidden_states.1": {"error": 1e-06}},
}
ORIGIN = {"hub": "somebody/something", "revision": "a" * 40}


def make_release(folder: Path) -> Path:
    with Checkpoint.open(write_variant(folder / "checkpoint", "bert")) as checkpoint:
        release = folder / "release"
        artifacts = [Artifact.read(export_artifact(checkpoint, name, release / name)) for name in ("pytorch", "onnx")]
        (release / GOLDEN).mkdir()
        Golden.make(checkpoint).write(release / GOLDEN)
        parity = dict.fromkeys(("pytorch", "onnx"), PARITY)
        write_documents(release, describe_source(checkpoint, ORIGIN), artifacts, parity)
    return release


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("documents"))


def test_provenance_names_every_file_and_every_input(release):
    statement = json.loads((release / PROVENANCE).read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    ours = {BILL_OF_MATERIALS, PROVENANCE, CARD, "artifact.json"}
    files = [path for path in release.rglob("*") if path.is_file() and path.name not in ours]
    assert subjects == {path.relative_to(release).as_posix(): sha256_of_file(path) for path in files}
    build = statement["predicate"]["buildDefinition"]
    assert build["externalParameters"] == {"targets": ["onnx", "pytorch"], "checkpoint": ORIGIN}
    named = {item.get("name"): item["digest"]["sha256"] for item in build["resolvedDependencies"] if "name" in item}
    weights = release.parent / "checkpoint" / "model.safetensors"
    assert named["model.safetensors"] == sha256_of_file(weights)
    assert any(item.get("uri", "").startswith("pkg:pypi/onnx@") for item in build["resolvedDependencies"])


def test_bill_of_materials_is_valid_cyclonedx(release):
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    error = validator.validate_str((release / BILL_OF_MATERIALS).read_text())
    assert error is None, error


def test_bill_of_materials_describes_the_model(release):
    bom = json.loads((release / BILL_OF_MATERIALS).read_text())
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == (
        "machine-learning-model",
        ORIGIN["hub"],
        ORIGIN["revision"],
    )
    assert model["modelCard"]["modelParameters"]["task"] == "fill-mask"
    references = [item["bom-ref"] for item in [model, *model["components"], *bom["components"]]]
    assert len(set(references)) == len(references)
    assert set(bom["dependencies"][0]["dependsOn"]) <= set(references)


def test_two_releases_have_equal_documents(release, tmp_path):
    other = make_release(tmp_path / "elsewhere")
    for name in list_documents(["onnx", "pytorch"]):
        text = (other / name).read_text()
        assert text == (release / name).read_text()
        assert not re.search(r"20\d\d-\d\d-\d\d|/tmp|/root|/home", text)
