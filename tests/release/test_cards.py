"""Model cards: a header that the hub reads, a body in which nothing from a checkpoint acts, snippets that run."""

import re
import runpy

import pytest

from tests.artifacts import EVERY_TARGET
from yizhi.model.architectures import FAMILIES
from yizhi.release.artifact import Artifact
from yizhi.release.cards import write_card, write_release_card
from yizhi.release.snippets import DECODERS
from yizhi.runtimes.tokenization import Tokenizer

yaml = pytest.importorskip("yaml")  # comes with huggingface_hub

PARITY = {
    "device": "cpu",
    "cosine": {},
    "quality": None,
    "label_error": 0.012,
    "worst": {"logits": {"error": 4.3e-06}, "hidden_states.1": {"error": 1e-06}},
}
SOURCE = {
    "files": {"config.json": "0" * 64},
    "model_type": "bert",
    "task": "fill-mask",
    "license": "apache-2.0",
    "languages": ["zh", "no"],
    "base_model": "hfl/rbt3",
    "origin": {"hub": "hfl/rbt3", "revision": "a" * 40},
}


def make_artifact(tmp_path, **changes):
    description = {
        "target": "onnx-int8",
        "precision": "int8",
        "task": "fill-mask",
        "inputs": {"input_ids": ["batch", "length"]},
        "made_with": {"converters": "0" * 64, "yizhi": "0.1.0"},
        "files": {"model.onnx": {"size": 1_200_000, "sha256": "0" * 64}},
    }
    return Artifact(tmp_path, {**description, **changes})


def read_header(card):
    _, header, _ = card.split("---\n", 2)
    return yaml.safe_load(header)


def test_the_header_says_what_the_hub_asks(tmp_path):
    card = write_card(make_artifact(tmp_path), SOURCE, PARITY)
    assert read_header(card) == {
        "language": ["zh", "no"],  # and not False, which YAML takes a bare no for
        "license": "apache-2.0",
        "base_model": "hfl/rbt3",
        "base_model_relation": "quantized",
        "library_name": "onnx",
        "pipeline_tag": "fill-mask",
        "tags": ["yizhi", "bert", "onnx", "int8", "quantized"],
    }
    assert "| largest error of `logits` | 4.3e-06 |" in card
    assert "hidden_states.1" not in card


def test_what_is_not_known_is_left_out(tmp_path):
    source = {key: SOURCE[key] for key in ("files", "model_type", "task")}
    card = write_release_card([make_artifact(tmp_path)], source, {"onnx-int8": PARITY})
    assert not {"license", "language", "base_model", "base_model_relation"} & read_header(card).keys()
    assert "- Licence: unknown\n" in card


FIELDS = {"language", "license", "base_model", "base_model_relation", "library_name", "pipeline_tag", "tags"}
EVIL = "x`\n---\nlicense: mit\n<script>alert(1)</script>|\x1b[31m\u202e```\n# Heading"


def test_openvinos_card_says_what_it_needs_to_compute_in_float32(tmp_path):
    settings = '{"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}'
    code = f'`SentenceTransformer(folder, backend="openvino", model_kwargs={settings})`'
    for target in ("openvino", "openvino-int8"):
        card = write_card(make_artifact(tmp_path, target=target), SOURCE, PARITY)
        assert "bfloat16" in card
        assert code in card
    assert "bfloat16" not in write_card(make_artifact(tmp_path), SOURCE, PARITY)


def test_nothing_from_a_checkpoint_acts_in_a_card(tmp_path):
    artifact = make_artifact(tmp_path, labels=[EVIL, *["x"] * 60])
    source = {**SOURCE, "files": {EVIL: "0" * 64}, "known": EVIL, "base_model": EVIL, "license": EVIL}
    for card in (write_card(artifact, source, PARITY), write_release_card([artifact], source, {"onnx-int8": PARITY})):
        header = read_header(card)
        assert header["license"] == header["base_model"] == EVIL  # one value, and no field more
        assert not header.keys() - FIELDS
        body = card.split("---\n", 2)[2]
        assert "\x1b" not in body
        assert "\u202e" not in body
        fenced = re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL)
        assert "<script>" not in re.sub(r"`[^`\n]*`", "", fenced)
        assert not [line for line in fenced.splitlines() if line.startswith(("license", "# Heading"))]
    assert "and 11 more, in `config.json`" in write_card(artifact, source, PARITY)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_flax_classes_are_named_where_transformers_has_them(tmp_path, family):
    names = pytest.importorskip("transformers.models.auto.modeling_flax_auto").FLAX_MODEL_MAPPING_NAMES
    card = write_card(make_artifact(tmp_path, target="flax"), {**SOURCE, "model_type": family}, PARITY)
    assert ("FlaxAutoModel" in card) == (family in names)


def test_decoders_are_the_families_that_see_only_what_came_before():
    assert {name for name, family in FAMILIES.items() if family.causal} == set(DECODERS)


SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TASKS = ["bert", "bert-no-head", "bert-classifier", "bert-tagger", "bert-reader", "electra-discriminator"]
TASKS += ["bert-regression", "bert-dense", "interbert", "qwen2", "qwen3", "qwen3-no-head"]
PROMPT = '"为这个句子生成表示```\u202e\n'


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("target", EVERY_TARGET)
@pytest.mark.parametrize("variant", TASKS)
def test_every_snippet_runs_as_it_stands(open_artifact, tmp_path, monkeypatch, capsys, target, variant):
    runtime = open_artifact(variant, target)[1]
    artifact = runtime.artifact
    source = {**SOURCE, "model_type": runtime.config.model_type, "task": artifact.description["task"]}
    card = write_card(artifact, source, PARITY, PROMPT)
    snippets = SNIPPET.findall(card)
    sentences = variant in ("bert-regression", "bert-dense") and target.startswith(("pytorch", "onnx", "openvino"))
    decodes = variant in ("qwen2", "qwen3")
    steps = target.startswith("onnx") and decodes  # optimum wants a cache in its own graph
    optimum = target.startswith(("onnx", "openvino")) and variant not in ("electra-discriminator", "interbert")
    assert len(snippets) == 1 + (optimum and not steps) + sentences + steps
    if sentences:
        name = "CrossEncoder" if variant == "bert-regression" else "SentenceTransformer"
        assert f"import {name}\n" in snippets[0]
    if variant == "bert-regression" and target != "flax":
        assert all('"北京是中国的首都。"' in code and "首都是哪里？" in code for code in snippets)
    if variant == "bert-dense":
        assert "pooling mean, dense, dense, 12 dimensions, normalized." in card
        assert "Before a query, and before no passage, stands `" in card
        assert "\u202e" not in card
    monkeypatch.chdir(artifact.folder)
    for code in snippets:
        assert len(code.splitlines()) <= 10
        (tmp_path / "snippet.py").write_text(code, encoding="utf-8")
        runpy.run_path(str(tmp_path / "snippet.py"))
        assert re.search(r"\d", capsys.readouterr().out)
    assert artifact.find_altered_files() == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("target", EVERY_TARGET)
def test_snippets_give_the_ids_of_a_tokenizer_that_its_file_cannot_hold(
    open_artifact, tmp_path, monkeypatch, capsys, target
):
    """RoFormer's tokenizer.json alone made one unknown word of a whole sentence."""
    pytest.importorskip("rjieba")
    artifact = open_artifact("roformer", target)[1].artifact
    length = Tokenizer.open(artifact.folder).encode(["北京是中国的首都。"]).inputs.input_ids.shape[1]
    card = write_card(artifact, {**SOURCE, "model_type": "roformer"}, PARITY)
    assert "jieba cuts texts into words" in card
    monkeypatch.chdir(artifact.folder)
    for code in SNIPPET.findall(card):
        assert len(code.splitlines()) <= 10
        (tmp_path / "snippet.py").write_text(code, encoding="utf-8")
        runpy.run_path(str(tmp_path / "snippet.py"))
        printed = capsys.readouterr().out
        assert f"1, {length}, " in printed or target == "flax"  # which only reads the weights
