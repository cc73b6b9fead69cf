"""A model with an image stream, through the commands."""

import json

import numpy as np
import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint

TARGETS = ("pytorch", "onnx", "onnx-int8")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interbert")
    write_variant(folder / "checkpoint", "interbert")
    wanted = [flag for target in TARGETS for flag in ("--target", target)]
    assert main(["export", str(folder / "checkpoint"), "--out", str(folder / "release"), *wanted]) == 0
    return folder / "release"


@pytest.mark.slow
def test_the_whole_way(release, tmp_path, capsys):
    assert main(["verify", str(release)]) == 0
    capsys.readouterr()
    assert main(["fill-mask", str(release / "onnx"), "北京是[MASK]国。", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    (tmp_path / "texts.txt").write_text("北京是中国的首都。\n天地好\n", encoding="utf-8")
    out = tmp_path / "vectors.npy"
    assert main(["embed", str(release / "onnx-int8"), str(tmp_path / "texts.txt"), "--output", str(out)]) == 0
    assert np.load(out).shape == (2, 32)
    assert main(["inspect", str(release.parent / "checkpoint")]) == 0
    assert "2 shared layers, 1 of its own" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_what_has_no_image_says_so(release, tmp_path, capsys):
    assert main(["package", str(release), "--for", "triton", "--out", str(tmp_path / "package")]) == 2
    assert "the release has an image stream, which a package for triton cannot hold yet" in capsys.readouterr().err
    assert not (tmp_path / "package").exists()


def test_training_is_refused(tmp_path):
    models = pytest.importorskip("yizhi.training.transformers_models")
    with (
        Checkpoint.open(write_variant(tmp_path, "interbert")) as checkpoint,
        pytest.raises(InputError, match="training is not supported for interbert"),
    ):
        models.build_model(checkpoint, "ForSequenceClassification", {})
