"""The catalogue: facts with sources, shapes that open, and recognition by hash and tensor by tensor."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_variant
from yizhi.catalogue import catalogue
from yizhi.catalogue.identify import describe_identity, identify, read_tensor_list
from yizhi.catalogue.own import OWN_CATALOGUE
from yizhi.cli import main
from yizhi.model.layout import transposes
from yizhi.model.spec import Pooling
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers.crc32c import crc32c
from yizhi.reading.importers.tensor_bundle import read_index
from yizhi.storage.digests import sha256_of_file

KNOWN = catalogue.read_catalogue()
# What the hub lists for files that hold float32 tensors of these shapes, and little else, in bytes.
PUBLISHED_SIZES = {
    "bert-base-chinese": 411_553_788,
    "bge-small-zh-v1.5": 95_827_648,
    # As the MTEB leaderboard has them, in MiB.
    "bge-base-zh-v1.5": 390 << 20,
    "bge-large-zh-v1.5": 1242 << 20,
    "m3e-base": 390 << 20,
    "bge-m3": 2167 << 20,
    "bce-embedding-base_v1": 4 * 279e6,  # by its makers' count of parameters
}


# Parameters of encoders as their makers count them, in millions.
PUBLISHED_COUNTS = {
    **{"ernie-3.0-base-zh": 117.9, "ernie-3.0-medium-zh": 75.4, "ernie-3.0-mini-zh": 26.9},
    **{"ernie-3.0-micro-zh": 23.4, "ernie-3.0-nano-zh": 17.9},
}


@pytest.mark.parametrize("entry", KNOWN.values(), ids=lambda entry: entry.name)
def test_every_statement_has_a_source(entry):
    for claim in (entry.licence, entry.head, entry.choose, entry.shape):
        assert claim.source or claim.text == "not recorded", claim
    assert all(file.source and len(file.sha256) == 64 for file in entry.files)
    assert entry.head.text in {"trained", "random", "corrector", "absent", "unknown"}
    assert entry.embedding is None or entry.embedding.source
    if entry.spec and entry.head.text != "absent":
        assert entry.spec.task == "fill-mask"


@pytest.mark.parametrize(("name", "size"), PUBLISHED_SIZES.items())
def test_computed_size_is_the_published_file_s(name, size):
    assert KNOWN[name].size == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize(("name", "millions"), PUBLISHED_COUNTS.items())
def test_computed_parameters_are_those_that_makers_count(name, millions):
    sizes = [math.prod(p.shape) for p in KNOWN[name].spec.parameters() if not p.name.startswith("cls.")]
    assert sum(sizes) / 1e6 == pytest.approx(millions, abs=0.06)


def test_list_of_models_and_one(capsys):
    assert main(["models"]) == 0
    assert "RANDOM" in capsys.readouterr().out
    assert main(["models", "hfl/chinese-roberta-wwm-ext-large"]) == 0
    assert "issues/76" in capsys.readouterr().out
    assert main(["models", "rbt3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 3
    assert main(["models", "BAAI/bge-large-zh-v1.5"]) == 0
    assert "cls, L2 norm 1; before a query: 为这个句子" in capsys.readouterr().out
    assert main(["models", "no-such-model"]) == 2
    assert "`yizhi models` lists what is known" in capsys.readouterr().err


def test_google_s_list_names_every_tensor_of_its_checkpoint():
    entry = KNOWN["bert-base-chinese"]
    listed = read_tensor_list(entry.tensors)
    parameters = {parameter.name: parameter for parameter in entry.spec.parameters()}
    assert {name for name in listed if not name.startswith("cls.seq_relationship")} == parameters.keys()
    for name, parameter in parameters.items():
        tied = name == entry.spec.word_embeddings.weight
        assert listed[name][1] == (transposes(parameter) and not tied), name


def test_google_s_list_is_that_of_its_index(shared_data):
    entries, _ = read_index(shared_data / "tf1" / "bert_model.ckpt.index")
    lines = KNOWN["bert-base-chinese"].tensors.read_text().splitlines()
    listed = {line.split(" ")[1]: int(line.split(" ")[0], 16) for line in lines if not line.startswith("#")}
    assert listed == {name: entry.crc32c for name, entry in entries.items()}


def own_catalogue(folder: Path, checkpoint: Path, **extra: str) -> Path:
    """A catalogue whose one entry is this small BERT, listed as Google stores it."""
    with Checkpoint.open(checkpoint) as opened:
        lines = []
        for parameter in opened.parameters():
            transposed = parameter.name.endswith("dense.weight") or ".self." in parameter.name
            array = opened.array(parameter.name)
            data = np.ascontiguousarray(array.T if transposed and array.ndim == 2 else array)
            lines.append(f"{crc32c(data.reshape(-1).view(np.uint8).data):08x} {google_name(parameter.name)}")
    (folder / "tensors.txt").write_text("\n".join(lines))
    config = json.loads((checkpoint / "config.json").read_text())
    shape = "\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items())
    digest = sha256_of_file(checkpoint / "model.safetensors")
    path = folder / "catalogue.toml"
    path.write_text(
        f"[shapes.common]\n[shapes.ours]\n{shape}\n[[checkpoints]]\n"
        'name = "ours"\nhub = ["team/ours"]\nshape = { of = "ours", source = "us" }\n'
        'licence = { is = "MIT", source = "us" }\nhead = { is = "trained", source = "us" }\n'
        'choose = { when = "ours", source = "us" }\ntensors = { list = "tensors.txt", source = "us" }\n'
        f'files = [{{ name = "model.safetensors", sha256 = "{digest}", source = "us" }}]\n',
        encoding="utf-8",
    )
    return path


def test_a_known_pooling_is_proposed_and_never_taken(ours, tmp_path, capsys):
    with open(tmp_path / "catalogue.toml", "a", encoding="utf-8") as file:
        file.write('embedding = { pooling = "cls", normalize = true, prompt = "问：", source = "us" }\n')
    for folder, command in {"release": "export", "artifacts": "convert"}.items():
        assert main([command, str(ours), "--out", str(tmp_path / folder), "--target", "onnx"]) == 0
        told = " ".join(capsys.readouterr().err.split())
        asked = "--pooling cls --normalize; before a query they write: 问："
        assert f"known as ours: its authors pool cls and normalize: {asked}" in told
        description = json.loads((tmp_path / folder / "onnx" / "artifact.json").read_text())
        assert "pooling" not in description
    assert catalogue.advise_pooling("ours", Pooling("mean")).endswith("; you ask for another pooling")
    assert catalogue.advise_pooling("ours", Pooling("cls", True)) is None
    assert catalogue.advise_pooling("rbt3", None) is None
    assert catalogue.advise_pooling(None, None) is None


def google_name(name: str) -> str:
    """The inverse of `place_google_name`, written apart from it."""
    for ours, theirs in {
        "encoder.layer.": "encoder.layer_",
        "predictions.bias": "predictions.output_bias",
        "LayerNorm.weight": "LayerNorm.gamma",
        "LayerNorm.bias": "LayerNorm.beta",
        "_embeddings.weight": "_embeddings",
    }.items():
        name = name.replace(ours, theirs)
    return name.replace(".weight", ".kernel").replace(".", "/")


@pytest.fixture
def ours(tmp_path, monkeypatch):
    checkpoint = write_variant(tmp_path / "ours", "bert")
    monkeypatch.setenv(OWN_CATALOGUE, str(own_catalogue(tmp_path, checkpoint)))
    return checkpoint


def recognise(folder: Path):
    with Checkpoint.open(folder) as checkpoint:
        return identify(checkpoint, checkpoint.digest())


def test_recognised_by_hash(ours):
    identity = recognise(ours)
    assert (identity.name, identity.by, identity.is_unaltered) == ("ours", "sha256 of model.safetensors", True)


@pytest.mark.parametrize("variant", ["bert-sharded", "bert-gamma-beta", "bert-position-ids"])
def test_recognised_tensor_by_tensor_in_other_files(ours, tmp_path, variant):
    identity = recognise(write_variant(tmp_path / "again", variant))
    assert identity.name == "ours"
    assert identity.by.startswith("CRC32C")
    assert (identity.different, identity.absent) == ((), ())
    assert "unaltered" in describe_identity(identity)


def test_child_is_recognised_and_its_changes_named(ours, tmp_path):
    changed = "bert.encoder.layer.2.attention.self.query.weight"

    def fine_tune(tensors):
        tensors[changed] = tensors[changed].T.copy()

    identity = recognise(write_variant(tmp_path / "child", "bert", alter=fine_tune))
    assert (identity.different, identity.is_unaltered) == ((changed,), False)
    assert f"1 differ: {changed}" in describe_identity(identity)


def test_with_an_adapter_it_is_not_unaltered(ours, tmp_path):
    identity = recognise(write_variant(tmp_path / "adapted", "bert-seq_bn"))
    assert (identity.different, identity.is_unaltered) == ((), False)
    assert describe_identity(identity).startswith("ours with the adapter senti (CRC32C")


def test_part_of_it_is_recognised_with_what_is_missing(ours, tmp_path):
    identity = recognise(write_variant(tmp_path / "part", "bert-no-head"))
    assert identity.is_unaltered
    assert "cls.predictions.bias" in identity.absent


def test_strangers_are_not_recognised(ours, tmp_path):
    assert recognise(write_variant(tmp_path / "other", "bert", seed=1)) is None
    assert recognise(write_variant(tmp_path / "albert", "albert")) is None
    assert recognise(write_variant(tmp_path / "half", "bert-fp16")) is None


def test_inspect_says_what_it_is(ours, tmp_path, capsys):
    assert main(["inspect", str(ours)]) == 0
    assert "ours, unaltered (sha256 of model.safetensors)" in " ".join(capsys.readouterr().out.split())
    stranger = write_variant(tmp_path / "other", "bert", seed=1)
    assert main(["inspect", str(stranger), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known_as"] is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x = ", "is not TOML"),
        ("x = 1", "is not a catalogue"),
        (None, "cannot be read"),
        ('[[checkpoints]]\nname = "ours"\nhead = { is = "good" }', "head: expected one of trained"),
        (
            '[[checkpoints]]\nname = "ours"\nhead = { is = "absent" }\nlicence = { is = "MIT" }\n'
            'choose = { when = "?" }\nembedding = { pooling = "first", normalize = true }',
            "embedding: pooling: expected one of cls, mean, max, last, splade; found 'first'",
        ),
    ],
)
def test_bad_catalogue_is_one_error(tmp_path, monkeypatch, capsys, content, expected):
    path = tmp_path / "own.toml"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(OWN_CATALOGUE, str(path))
    assert main(["models"]) == 2
    assert expected in capsys.readouterr().err


def test_every_fault_of_an_own_catalogue_is_listed_with_its_checkpoint(tmp_path, monkeypatch, capsys):
    entry = 'licence = { is = "internal" }\nhead = { is = "trained" }\nchoose = { when = "news" }\n'
    path = tmp_path / "own.toml"
    path.write_text(
        '[shapes.common]\n[shapes.ours]\nmodel_type = "bert"\n'
        f'[[checkpoints]]\nname = "one"\nshape = {{ of = "ours" }}\n{entry}'
        f'[[checkpoints]]\nname = "two"\n{entry}embedding = {{ pooling = "sum", normalize = true }}\n',
        encoding="utf-8",
    )
    monkeypatch.setenv(OWN_CATALOGUE, str(path))
    assert main(["models", "one"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"yizhi: {path}:\n")
    assert "\n  - one: shape: hidden_size: missing\n" in said
    assert "\n  - two: embedding: pooling: expected one of " in said
