"""`yizhi package --for web`: what transformers.js answers with it, in Node, and what is refused."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_variant
from tests.kills import run_killed
from tests.packaging.conftest import package
from tests.packaging.test_package import assert_sealed
from tests.web import install_transformers_js, require_node, require_wasm
from yizhi import Embedder, FillMask, open_runtime
from yizhi.cli import main
from yizhi.packaging import web, web_tokenizer
from yizhi.packaging.package import PACKAGE
from yizhi.packaging.web import TOKENIZERS
from yizhi.packaging.web_tokenizer import RARE_CHINESE, adapt_tokenizer
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.runtimes.onnxruntime_web import ONNXRUNTIME_WEB
from yizhi.runtimes.web_graph import adapt_graph
from yizhi.storage.digests import describe_folder
from yizhi.storage.npm import find_tarball

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "web.md"
# transformers.js answers the first mask of a text alone.
TEXTS = ["北京是[MASK]国的首都。", "今天[MASK]气很好。"]
DTYPES = {"fp32": "onnx", "q8": "onnx-int8"}
ASK = """
import { env, pipeline } from "@huggingface/transformers";
const [models, name, dtype, texts] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = models;
const fillMask = await pipeline("fill-mask", name, { dtype });
const filled = [];
for (const text of JSON.parse(texts)) {
  filled.push(Object.fromEntries((await fillMask(text)).map(({ token_str, score }) => [token_str, score])));
}
const embed = await pipeline("feature-extraction", name, { dtype });
const { dims, data } = await embed(JSON.parse(texts), { pooling: "mean" });
console.log(JSON.stringify({ filled, dims, data: Array.from(data) }));
"""


def run_node(folder, script, *arguments):
    """What a module prints that has transformers.js beside it."""
    (folder / "node_modules").symlink_to(install_transformers_js() / "node_modules")
    (folder / "app.mjs").write_text(script, encoding="utf-8")
    command = [require_node(), "app.mjs", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype", DTYPES)
def test_transformers_js_answers_as_the_artifact_does(mini_release, mini_web, tmp_path, dtype):
    asked = run_node(tmp_path, ASK, f"{mini_web}/models/", "zh-mini", dtype, json.dumps(TEXTS))
    found = json.loads(asked.splitlines()[-1])
    with open_runtime(mini_release / DTYPES[dtype]) as runtime:
        fill, vectors = FillMask(runtime), Embedder(runtime)(TEXTS)
        expected = [{one.token: one.score for one in masks[0]} for masks in fill.many(TEXTS)]
    # The same graph in fp32. For the web, softmax is written out in int8, which moves roundings.
    most = {"fp32": 1e-5, "q8": 0.01}[dtype]
    for ours, theirs in zip(expected, found["filled"], strict=True):
        assert next(iter(theirs)) == next(iter(ours))
        least = min(theirs.values())
        assert all(theirs.get(token, least) == pytest.approx(score, abs=most) for token, score in ours.items())
    found_vectors = np.array(found["data"]).reshape(found["dims"])
    away = np.linalg.norm(found_vectors - vectors, axis=1) / np.linalg.norm(vectors, axis=1)
    assert (away <= {"fp32": 1e-5, "q8": 0.02}[dtype]).all()


def test_trained_weights_meet_every_gate_in_webassembly(mini_release, capsys):
    require_wasm()
    assert main(["verify", str(mini_release), "--runtime", "wasm"]) == 0
    assert "2 of 2 passed" in capsys.readouterr().out


def test_the_documents_example_runs(mini_web, tmp_path):
    (script,) = re.findall(r"```js\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(script.splitlines()) <= 12
    script = script.replace("serve/web/models/", f"{mini_web}/models/").replace('"NAME"', '"zh-mini"')
    best, dims = run_node(tmp_path, script).splitlines()
    assert best.startswith("中 0.4")
    assert dims == "[ 2, 312 ]"


def test_a_package_is_sealed_and_the_same_twice(small_release, small_web, tmp_path):
    assert_sealed(small_web)
    again = package(small_release, tmp_path / "again")
    assert describe_folder(again) == describe_folder(small_web)
    config = json.loads((small_web / "models" / "small" / "config.json").read_text())
    expected = {"use_external_data_format": {"model.onnx": 1, "model_quantized.onnx": 1}}
    assert config.pop("transformers.js_config") == expected
    assert config == json.loads((small_release / "onnx" / "config.json").read_text())


def test_licences_of_what_is_carried_are_there(small_web):
    assert "Microsoft" in (small_web / "onnxruntime-web" / "LICENSE.txt").read_text()
    assert "Apache License" in (small_web / "tokenizers" / "LICENSE.txt").read_text()
    head = (small_web / "onnxruntime-web" / "ort.wasm.min.mjs").read_text(encoding="utf-8")[:200]
    assert f"v{ONNXRUNTIME_WEB.version}" in head
    assert "Licensed under the MIT License" in head


def test_graphs_compute_natively_what_the_releases_do(small_release, small_web):
    ids = np.arange(5, 19).reshape(2, 7)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    feeds["attention_mask"][1, 4:] = 0
    place = small_web / "models" / "small" / "onnx"
    for file, target in (("model.onnx", "onnx"), ("model_quantized.onnx", "onnx-int8")):
        packaged = onnxruntime.InferenceSession(place / file).run(None, feeds)
        released = onnxruntime.InferenceSession(small_release / target / "model.onnx").run(None, feeds)
        for found, expected in zip(packaged, released, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-2 if target == "onnx-int8" else 0)


def test_the_packaged_int8_graph_gives_a_row_the_same_bits_natively(small_web):
    session = onnxruntime.InferenceSession(small_web / "models" / "small" / "onnx" / "model_quantized.onnx")
    ids = np.arange(5, 65).reshape(4, 15)
    mask = (np.arange(15) < np.array([[1], [2], [7], [15]])).astype(np.int64)

    def run(ids, mask):
        (states,) = session.run(
            ["last_hidden_state"],
            {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)},
        )
        return states

    together = run(ids, mask)
    for row, length in enumerate(mask.sum(axis=1)):
        alone = run(ids[row : row + 1, :length], mask[row : row + 1, :length])
        np.testing.assert_array_equal(alone[0], together[row, :length])


def test_a_single_precision_is_what_everybody_gets(small_release, tmp_path):
    folder = package(small_release, tmp_path / "web", "--target", "onnx", "--name", "other")
    config = json.loads((folder / "models" / "other" / "config.json").read_text())
    settings = {"use_external_data_format": {"model.onnx": 1}, "dtype": "fp32"}
    assert config["transformers.js_config"] == settings
    assert [model["precision"] for model in json.loads((folder / "page.json").read_text())["models"]] == ["fp32"]


def test_a_model_without_masks_has_no_page(tmp_path):
    checkpoint = write_variant(tmp_path / "checkpoint", "bert-classifier")
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "labels"), "--target", "onnx"]) == 0
    folder = package(tmp_path / "labels", tmp_path / "web")
    assert {path.name for path in folder.iterdir()} == {"models", PACKAGE}


# --- Texts to ids

TRICKY = ("a𠀀b", "𠀀𠮷国", "x\U0002b8ffy", "🇨🇳𠀀👍🏽", "ＡＢＣ 𬺓é", "[MASK]𪚥[SEP]", "")


def rare(tokenizer, text):
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


def test_the_adapted_tokenizer_splits_as_it_did(open_variant):
    from tokenizers import Tokenizer

    original = read_tokenizer(open_variant("bert", "onnx").artifact.folder).tokenizer
    adapted = Tokenizer.from_str(json.dumps(adapt_tokenizer(json.loads(original.to_str()))))
    for text in (*TRICKY, *(f"a{chr(code)}b" for code in range(0x3000, 0x32000, 7) if not 0xD800 <= code < 0xE000)):
        assert rare(adapted, text) == rare(original, text), hex(ord(text[1])) if text else text
        assert adapted.encode(text).ids == original.encode(text).ids


def test_a_tokenizer_that_would_read_otherwise_is_never_written(small_release, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(web_tokenizer, "RARE_CHINESE", "[a-m]")
    assert main(["package", str(small_release), "--for", "web", "--out", str(tmp_path / "web")]) == 1
    assert "tokenizer.json: adapted to JavaScript, it reads otherwise: 'BERT base" in capsys.readouterr().err
    assert not (tmp_path / "web").exists()


@pytest.mark.parametrize(
    ("normalizer", "adapted"),
    [
        (None, False),
        ({"type": "NFC"}, False),
        ({"type": "BertNormalizer", "handle_chinese_chars": False}, False),
        ({"type": "Sequence", "normalizers": [{"type": "BertNormalizer", "handle_chinese_chars": True}]}, True),
    ],
)
def test_only_what_separates_chinese_characters_is_adapted(normalizer, adapted):
    given = {"normalizer": normalizer, "pre_tokenizer": None}
    split = {"type": "Split", "pattern": {"Regex": RARE_CHINESE}, "behavior": "Isolated", "invert": False}
    expected = {"type": "Sequence", "pretokenizers": [split]} if adapted else None
    assert adapt_tokenizer(given)["pre_tokenizer"] == expected


IDS = """
import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
const [folder, texts] = process.argv.slice(2);
const read = (path) => JSON.parse(readFileSync(path));
const tokenizer = new Tokenizer(read(`${folder}/tokenizer.json`), read(`${folder}/tokenizer_config.json`));
console.log(JSON.stringify(read(texts).map((text) => Array.from(tokenizer.encode(text).ids))));
"""


def test_javascript_gives_the_releases_ids(mini_release, mini_web, shared_data, tmp_path):
    golden = json.loads((mini_release / "golden" / "cases.json").read_text(encoding="utf-8"))["text"]["cases"]
    samples = json.loads((shared_data / "reference" / "tokenizer_goldens.json").read_text(encoding="utf-8"))["samples"]
    texts = [*(case["text"] for case in golden), *(sample["text"] for sample in samples), *TRICKY]
    tokenizer = read_tokenizer(mini_release / "onnx").tokenizer
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    found = json.loads(run_node(tmp_path, IDS, mini_web / "models" / "zh-mini", "texts.json"))
    wrong = [text for text, ids in zip(texts, found, strict=True) if ids != tokenizer.encode(text).ids]
    assert not wrong


# --- What is refused


def test_no_network_and_no_tarball_is_one_clear_error(small_release, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    assert main(["package", str(small_release), "--for", "web", "--out", str(tmp_path / "web")]) == 2
    told = capsys.readouterr().err
    why = "npm could not download it (code ECONNREFUSED)" if shutil.which("npm") else "there is no npm here"
    assert why in told
    assert f"download {ONNXRUNTIME_WEB.url} and put it at {tmp_path / 'cache'}" in told
    assert not (tmp_path / "web").exists()


def test_tarballs_come_from_a_folder_too(small_release, small_web, tmp_path, monkeypatch, capsys):
    given = tmp_path / "tarballs"
    given.mkdir()
    shutil.copy(find_tarball(ONNXRUNTIME_WEB), given)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["package", str(small_release), "--for", "web", "--npm-folder", str(given), "--out"]
    assert main([*arguments, str(tmp_path / "web")]) == 2
    assert f"has no {TOKENIZERS.file}: download {TOKENIZERS.url}" in capsys.readouterr().err
    (given / TOKENIZERS.file).write_bytes(b"another")
    assert main([*arguments, str(tmp_path / "web")]) == 2
    assert f"expected sha512 {TOKENIZERS.integrity}" in capsys.readouterr().err
    assert not (tmp_path / "web").exists()
    shutil.copy(find_tarball(TOKENIZERS), given)
    assert main([*arguments, str(tmp_path / "web")]) == 0
    assert describe_folder(tmp_path / "web") == describe_folder(small_web)


def test_weights_beyond_a_browser_are_refused(small_release, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(web, "_MOST_BYTES", 1000)
    assert main(["package", str(small_release), "--for", "web", "--out", str(tmp_path / "web")]) == 2
    told = capsys.readouterr().err
    assert told.count("expected weights of less than 2 GiB") == 2
    assert not (tmp_path / "web").exists()


def test_a_release_that_was_altered_or_has_no_onnx_is_refused(small_release, tmp_path, capsys):
    release = tmp_path / "release"
    shutil.copytree(small_release, release)
    (release / "onnx" / "model.onnx.data").write_bytes(b"")
    assert main(["package", str(release), "--for", "web", "--out", str(tmp_path / "web")]) == 1
    assert "onnx/model.onnx.data: expected" in capsys.readouterr().err
    checkpoint = write_variant(tmp_path / "checkpoint", "bert")
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "torch"), "--target", "pytorch"]) == 0
    assert main(["package", str(tmp_path / "torch"), "--for", "web", "--out", str(tmp_path / "web")]) == 2
    assert "has no onnx and no onnx-int8; it has pytorch" in capsys.readouterr().err


def test_settings_of_servers_and_folders_in_the_way_are_refused(small_release, tmp_path, capsys):
    arguments = ["package", str(small_release), "--for", "web", "--out", str(tmp_path / "web")]
    assert main([*arguments, "--signature", "features", "--model-version", "2"]) == 2
    told = capsys.readouterr().err
    assert "--signature: web takes none; leave it out" in told
    assert "--model-version: web takes none; leave it out" in told
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "mine.txt").write_text("mine")
    assert main(arguments) == 2
    assert "exists, and Yizhi does not replace it" in capsys.readouterr().err
    arguments[3] = "triton"
    assert main([*arguments, "--npm-folder", str(tmp_path)]) == 2
    assert "--npm-folder: triton takes none; leave it out" in capsys.readouterr().err


def test_a_graph_of_another_kind_is_refused():
    from onnx import helper

    node = helper.make_node("Softmax", ["x"], ["y"], name="a/Softmax")
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(RuntimeError, match="expected each Softmax"):
        adapt_graph(model.SerializeToString(), "int8")


def test_a_kill_leaves_a_whole_package_or_none(small_release, small_web, tmp_path):
    folder = tmp_path / "web"
    for _ in run_killed(["package", str(small_release), "--for", "web", "--out", str(folder)], 6):
        if folder.exists():
            assert_sealed(folder)
    package(small_release, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["web"]  # what the kills left is removed
