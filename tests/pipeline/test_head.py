"""What `export` and `verify` say of a masked-language-model head, and when that fails them."""

import json

import pytest

from tests.checkpoints import VARIANTS, VOCAB, write_variant
from yizhi.cli import main
from yizhi.parity.cloze import CLOZE
from yizhi.parity.record import Plausibility
from yizhi.pipeline.head import choose_scorer, describe_head

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    characters = sorted({character for text, answers in CLOZE for character in text.replace("[MASK]", "") + answers})
    vocab = [*VOCAB[:5], *characters, *(f"[unused{number}]" for number in range(1000))]
    checkpoint = write_variant(folder / "checkpoint", "bert", config={"vocab_size": len(vocab)}, vocab=vocab)
    arguments = ["export", str(checkpoint), "--out", str(folder / "release"), "--target", "pytorch", "--target", "onnx"]
    assert main(arguments) == 0
    return folder / "release"


def test_untrained_head_warns_and_passes(release, capsys):
    assert main(["verify", str(release)]) == 0
    assert "Note: the MLM head is untrained (onnx answered " in " ".join(capsys.readouterr().out.split())


def test_require_mlm_fails_on_an_untrained_head(release, capsys):
    assert main(["verify", str(release), "--require-mlm"]) == 1
    assert "--require-mlm" in capsys.readouterr().err


def test_head_is_scored_once_and_recorded(release):
    artifacts = json.loads((release / "manifest.json").read_text())["artifacts"]
    assert artifacts["onnx"]["parity"]["head"]["verdict"] == "untrained"
    assert "head" not in artifacts["pytorch"]["parity"]


def test_second_export_still_knows_the_score(release, capsys):
    checkpoint = str(release.parent / "checkpoint")
    assert main(["export", checkpoint, "--out", str(release), "--target", "onnx", "--require-mlm"]) == 1
    printed = capsys.readouterr()
    assert "up to date" in printed.out
    assert "MLM head is untrained" in printed.out


def test_checkpoint_without_head(tmp_path, capsys):
    checkpoint = write_variant(tmp_path / "checkpoint", "bert-no-head")
    arguments = ["export", str(checkpoint), "--out", str(tmp_path / "release"), "--target", "onnx"]
    assert main(arguments) == 0
    assert "MLM head: absent" in capsys.readouterr().out
    assert main([*arguments, "--require-mlm"]) == 1


@pytest.mark.parametrize(
    ("variant", "said"),
    [("albert-classifier", "head: classifier;"), ("electra-discriminator", "head: discriminator;")],
)
def test_a_head_that_fills_no_masks_is_called_what_it_is(tmp_path, capsys, variant, said):
    config = {**VARIANTS[variant].get("config", {}), "num_hidden_layers": 1}
    checkpoint = write_variant(tmp_path / "checkpoint", variant, config=config)
    arguments = ["export", str(checkpoint), "--out", str(tmp_path / "release"), "--target", "onnx"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert "MLM" not in printed
    assert said in (tmp_path / "release" / "report" / "parity.html").read_text(encoding="utf-8")
    assert main(["inspect", str(tmp_path / "release")]) == 0  # the manifest is of its schema


def test_full_precision_is_asked_first():
    assert choose_scorer(["onnx-int8", "tensorflow", "flax"]) == "flax"
    assert choose_scorer(["onnx-int8"]) == "onnx-int8"
    assert choose_scorer([]) is None


def test_a_score_reads_the_same_when_it_was_kept_in_a_manifest():
    """Three significant digits are what a manifest holds of it: -10.65 came back as -10.70."""
    fresh = Plausibility("untrained", 0, 3, -10.651822, -9.958354, 30)
    kept = Plausibility("untrained", 0, 3, -10.7, -9.96, 30)
    assert describe_head("onnx", fresh) == describe_head("onnx", kept)


def test_vocabulary_too_small_is_said():
    head = Plausibility("not judged", skipped=25, scored=5)
    assert "lacks characters of 25" in describe_head("onnx", head)
