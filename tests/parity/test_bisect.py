"""`yizhi verify --bisect`, and bisecting by `yizhi export` itself."""

import json

import pytest

from tests.checkpoints import write_variant
from tests.pipeline.test_export import rehash, swap
from yizhi.cli import main
from yizhi.reading.checkpoint import Checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_variant(tmp_path_factory.mktemp("bisect") / "checkpoint", "bert")


def test_verify_names_tensor_and_cause(checkpoint, tmp_path, capsys):
    release = tmp_path / "release"
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "pytorch"]) == 0
    for leaf in ("weight", "bias"):
        names = [f"bert.encoder.layer.1.attention.self.{part}.{leaf}" for part in ("query", "key")]
        swap(release / "pytorch" / "model.safetensors", *names)
    rehash(release, "pytorch")
    report = tmp_path / "report"
    assert main(["verify", str(release), "--bisect", str(checkpoint), "--report", str(report)]) == 1
    printed = capsys.readouterr().out
    assert "first layer that differs: hidden_states.2" in printed
    assert "first tensor that differs inside it: layers.1.query" in printed
    assert "likely cause: query and key swapped" in printed
    verdict = json.loads((report / "parity.json").read_text())["targets"]["pytorch"]["parity"]
    assert verdict["diagnosis"]["tensor"] == "layers.1.query"


def test_a_layer_of_the_image_is_named_as_such(tmp_path, capsys):
    checkpoint, release = write_variant(tmp_path / "checkpoint", "interbert"), tmp_path / "release"
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "pytorch"]) == 0
    for leaf in ("weight", "bias"):
        names = [f"bert.encoder.v_layer.0.attention.self.{part}.{leaf}" for part in ("query", "value")]
        swap(release / "pytorch" / "model.safetensors", *names)
    rehash(release, "pytorch")
    assert main(["verify", str(release), "--bisect", str(checkpoint)]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    with Checkpoint.open(checkpoint) as opened:
        first = opened.spec.image.shared
    named = f"image_hidden_states.{first + 1}, the output of the image's layer {first}"
    assert f"first layer that differs: {named}" in printed
    assert "taps show the text's layers alone" in printed


def test_a_checkpoint_that_cannot_be_read_is_bad_input(checkpoint, tmp_path, capsys):
    release = tmp_path / "release"
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "pytorch"]) == 0
    assert main(["verify", str(release), "--bisect", str(tmp_path / "nowhere")]) == 2
    assert "no such checkpoint folder" in capsys.readouterr().err
