"""Published outputs: the facts are well formed, and an artifact is held to them at the digits printed."""

import json
from decimal import Decimal

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import open_tokenizer, write_variant
from yizhi.catalogue.catalogue import read_catalogue
from yizhi.catalogue.own import OWN_CATALOGUE
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.parity import oracle, published
from yizhi.parity.published import allowed, check_published, read_published
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.tokenizer_sources import read_vocab
from yizhi.runtimes import open_runtime
from yizhi.runtimes.scores import softmax
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.digests import sha256_of_file

HIDDEN, MASKED = "我的房间", "北京的天[MASK]很好[MASK]"
DIGITS = 5


def publish(folder, checkpoint, alter=lambda text: text):
    """Print this checkpoint's outputs, from the float64 oracle, the way a notebook would; and list its hash."""
    with Checkpoint.open(checkpoint) as opened:
        tokenizer = Tokenizer.open(checkpoint)
        hidden = oracle.run(opened, tokenizer.encode([HIDDEN]).inputs)
        masked = tokenizer.encode([MASKED]).inputs
        logits = oracle.run(opened, masked)["logits"].reshape(*masked.input_ids.shape, -1)
    scores = softmax(logits[masked.input_ids == tokenizer.mask_id])

    def printed(values):
        return "[" + ", ".join(f"{value:.{DIGITS}f}" for value in values) + "]"

    vectors = ", ".join(
        f"{{ at = {at}, first = {printed(hidden['last_hidden_state'][0, at][:3])}, "
        f"last = {printed(hidden['last_hidden_state'][0, at][-2:])} }}"
        for at in (0, 2, -1)
    )
    masks = ", ".join(
        "["
        + ", ".join(
            f"{{ token = {json.dumps(tokenizer.vocab[index], ensure_ascii=False)}, score = {score[index]:.{DIGITS}f} }}"
            for index in np.argsort(-score)[:3]
        )
        + "]"
        for score in scores
    )
    ids = tokenizer.encode([HIDDEN]).inputs.input_ids[0].tolist()
    path = folder / "own.toml"
    path.write_text(
        alter(
            f"""
[shapes.common]
[[checkpoints]]
name = "ours"
hub = ["team/ours"]
licence = {{ is = "MIT", source = "us" }}
head = {{ is = "random", source = "us" }}
choose = {{ when = "testing", source = "us" }}
files = [{{ name = "model.safetensors", sha256 = "{sha256_of_file(checkpoint / "model.safetensors")}", source = "us" }}]

[[hidden_states]]
checkpoint = "ours"
text = "{HIDDEN}"
input_ids = {ids}
source = "our notebook"
vectors = [{vectors}]
pooler = {{ first = {printed(hidden["pooler_output"][0][:4])} }}

[[fill_mask]]
checkpoint = "ours"
text = "{MASKED}"
source = "our model card"
masks = [{masks}]
"""
        ),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return write_variant(tmp_path / "checkpoint", "bert")


def test_facts_are_of_known_checkpoints_and_have_sources():
    known = read_catalogue()
    with open(published.PUBLISHED, "rb") as file:
        raw = published.tomllib.load(file)
    for entry in (*raw["hidden_states"], *raw["fill_mask"]):
        assert entry["checkpoint"] in known
        assert entry["source"]
    assert len(read_published("bert-base-chinese")) >= 9
    assert {entry["kind"] for entry in read_published("rbt3")} == {"hidden_states"}


def test_checkpoints_said_to_fill_masks_have_published_answers():
    said = {name for name, entry in read_catalogue().items() if entry.head.text == "trained"}
    assert said == {name for name in said if any(entry["kind"] == "fill_mask" for entry in read_published(name))}


@pytest.mark.parametrize("name", ["bert-base-chinese", "rbt3"])
def test_published_ids_are_our_tokenizer_s(name, shared_data):
    tokenizer = open_tokenizer(read_vocab(shared_data / "vocab" / "vocab.txt"), 512)  # rbt3 says nothing: defaults
    checked = 0
    for entry in read_published(name):
        if "input_ids" in entry:
            assert tokenizer.encode([entry["text"]]).inputs.input_ids[0].tolist() == entry["input_ids"]
            checked += 1
    assert checked


def test_every_target_reproduces_what_was_published(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv(OWN_CATALOGUE, str(publish(tmp_path, checkpoint)))
    with Checkpoint.open(checkpoint) as opened:
        artifact = export_artifact(opened, "onnx", tmp_path / "onnx")
    with open_runtime(artifact) as runtime:
        result = check_published(runtime, "ours")
    assert result.faults == []
    assert result.values == 3 * 5 + 4 + 2 * 3
    assert 0 < result.worst < 0.5 * 10**-DIGITS + 1e-5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("pooler = { first = [", "pooler = { first = [9"), "pooler, number 1"),
        (("at = 2", "at = 1"), "token 1, number 1"),
        (("input_ids = [", "input_ids = [1, "), "input_ids: expected"),
    ],
)
def test_wrong_number_is_named_with_its_source(checkpoint, tmp_path, monkeypatch, change, expected):
    path = publish(tmp_path, checkpoint, lambda text: text.replace(*change))
    monkeypatch.setenv(OWN_CATALOGUE, str(path))
    with Checkpoint.open(checkpoint) as opened:
        artifact = export_artifact(opened, "onnx", tmp_path / "onnx")
    with open_runtime(artifact) as runtime:
        faults = check_published(runtime, "ours").faults
    assert faults
    assert all("our notebook" in fault for fault in faults)
    assert expected in faults[0]


@pytest.mark.slow
def test_export_and_verify_check_a_known_checkpoint(checkpoint, tmp_path, monkeypatch, capsys):
    """By its file's hash alone, through the command line, int8 left out; and a wrong number fails both."""
    monkeypatch.setenv(OWN_CATALOGUE, str(publish(tmp_path, checkpoint)))
    release = tmp_path / "release"
    arguments = ["export", str(checkpoint), "--out", str(release), "--target", "onnx", "--target", "onnx-int8"]
    assert main(arguments) == 0
    assert "this is ours: 25 published numbers compared, 0 disagree" in capsys.readouterr().out
    manifest = json.loads((release / "manifest.json").read_text())
    assert manifest["source"]["known"] == "ours"
    assert manifest["artifacts"]["onnx"]["parity"]["published"]["values"] == 25
    assert "published" not in manifest["artifacts"]["onnx-int8"]["parity"]

    publish(tmp_path, checkpoint, lambda text: text.replace("at = -1", "at = 1"))
    assert main(["verify", str(release)]) == 1
    assert "our notebook" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", str(release / "onnx")]) == 1


def test_incomplete_entry_is_one_error(tmp_path, monkeypatch):
    path = tmp_path / "own.toml"
    path.write_text('[[fill_mask]]\ncheckpoint = "ours"\ntext = "[MASK]"\n')
    monkeypatch.setenv(OWN_CATALOGUE, str(path))
    with pytest.raises(InputError, match="fill_mask 1: source, masks: missing"):
        read_published("ours")


@pytest.mark.parametrize(
    ("printed", "expected"),
    [("0.99119", 0.5e-5), ("-1.0", 0.05), ("1.20489", 0.5e-5), ("0.6804", 0.5e-4)],
)
def test_allowed_is_half_the_last_digit_and_float32(printed, expected):
    assert expected < allowed(Decimal(printed)) <= expected + 2.3e-5
