"""A text that goes before texts: the artifact's own by its name, or any other."""

import json

import httpx
import numpy as np
import pytest

from tests.serving.running import run_models
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.runtimes import Embedder, RetrievalEmbedder

TEXT, PAIR = "北京是中国的首都。", ("这个酒店", "服务很好！")
PROMPTS = {"query": "中国", "passage": "你好"}


@pytest.fixture(scope="module")
def runtime(open_variant):
    sentence = {"mode": "mean", "normalize": True, "prompts": PROMPTS}
    return open_variant("bert", "onnx", task="features", sentence=sentence)


@pytest.mark.parametrize(
    ("prompt", "before"),
    [(None, ""), ("query", "中国"), ("passage", "你好"), ("中国的", "中国的"), ("query:", "query:")],
)
@pytest.mark.parametrize("embedder", [Embedder, RetrievalEmbedder])
def test_it_goes_before_each_text(runtime, embedder, prompt, before):
    found = embedder(runtime, prompt=prompt)([TEXT, PAIR])
    expected = embedder(runtime)([before + TEXT, (before + PAIR[0], PAIR[1])])
    if embedder is RetrievalEmbedder:
        found, expected = ([vectors.dense for vectors in both] for both in (found, expected))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("embedder", [Embedder, RetrievalEmbedder])
def test_a_misspelled_name_is_not_put_before_texts(runtime, open_variant, embedder):
    told = r"`prompt`: expected a name that the artifact has \(passage, query\) or a text; found qeury"
    with pytest.raises(InputError, match=told):
        embedder(runtime, prompt="qeury")
    with pytest.raises(InputError) as caught:
        embedder(runtime, prompt="qeury", long="no")
    assert len(caught.value.faults) == 2
    with pytest.raises(InputError, match=r"\(none\) or a text; found query"):
        embedder(open_variant("bert-m3", "onnx"), prompt="query")


def test_what_is_no_text_is_told_as_without_a_prompt(runtime):
    for wrong in (None, 3, ("a",), (None, "b")):
        with pytest.raises(InputError, match="text"):
            Embedder(runtime, prompt="query")([wrong])


def test_the_command_and_whole_files(runtime, tmp_path, capsys):
    folder = str(runtime.artifact.folder)
    expected = Embedder(runtime)([PROMPTS["query"] + TEXT])
    assert main(["embed", folder, TEXT, "--prompt", "query"]) == 0
    assert np.array_equal(np.float32(json.loads(capsys.readouterr().out)), expected[0])
    (tmp_path / "in.txt").write_text(TEXT, encoding="utf-8")
    output = tmp_path / "out.npy"
    assert main(["embed", folder, str(tmp_path / "in.txt"), "--prompt", "query", "--output", str(output)]) == 0
    assert np.array_equal(np.load(output), expected)
    assert main(["embed", folder, TEXT, "--prompt", "qeury"]) == 2
    assert "--prompt: expected a name" in capsys.readouterr().err


def test_a_server_knows_the_artifacts_own(runtime):
    with run_models({"vectors": runtime}, prompts={"passage": "北京"}) as address:
        for name, before in (("query", "中国"), ("passage", "北京")):
            found = httpx.post(f"{address}/embed", json={"inputs": TEXT, "prompt_name": name}).json()
            np.testing.assert_array_equal(np.float32(found), Embedder(runtime)([before + TEXT]))
        unknown = httpx.post(f"{address}/embed", json={"inputs": TEXT, "prompt_name": "qeury"}).json()["error"]
        assert unknown == "no prompt 'qeury'; known: passage, query"
        assert httpx.get(f"{address}/info").json()["models"][0]["prompts"] == ["passage", "query"]
