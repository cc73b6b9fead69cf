"""What a decoder's folder is for: its configuration and the names of its tensors say it together."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from tests.artifacts import export_artifact
from tests.checkpoints import small_config
from yizhi.errors import InputError
from yizhi.pipeline.synthesis import synthesize
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Embedder, open_runtime


def say(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_file_of_the_bare_model_has_no_head_whatever_its_configuration_says(make_checkpoint):
    """Qwen3-Embedding's folder."""
    folder = make_checkpoint("qwen3-last", prefix=False)
    say(folder, architectures=["Qwen3ForCausalLM"], tie_word_embeddings=True)
    with Checkpoint.open(folder) as checkpoint:
        assert (checkpoint.spec.task, checkpoint.spec.head) == ("features", None)
        assert checkpoint.published_config()["architectures"] == ["Qwen3Model"]
        assert checkpoint.spec.pooling.mode == "last"


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_of_the_whole_model_has_its_head(make_checkpoint, tied):
    folder = make_checkpoint("qwen3", config={"tie_word_embeddings": tied})
    with Checkpoint.open(folder) as checkpoint:
        assert (checkpoint.spec.task, checkpoint.spec.tied) == ("text-generation", tied)
        decoder = checkpoint.spec.word_embeddings.weight if tied else "lm_head.weight"
        assert checkpoint.spec.head.decoder == decoder


def test_an_untied_decoder_is_a_head_where_the_configuration_names_no_class(tmp_path):
    config = small_config("qwen3", vocab_size=300, hidden_size=32)
    synthesize(tmp_path / "checkpoint", config)
    with Checkpoint.open(tmp_path / "checkpoint") as checkpoint:
        assert checkpoint.spec.task == "text-generation"


def test_an_untied_decoder_that_is_missing_is_named(make_checkpoint):
    folder = make_checkpoint("qwen3", config={"tie_word_embeddings": True})
    say(folder, tie_word_embeddings=False)
    with pytest.raises(InputError) as error:
        Checkpoint.open(folder)
    (fault,) = error.value.faults
    assert fault.startswith("lm_head.weight: missing")


def test_a_head_that_gives_labels_is_refused_by_name(make_checkpoint):
    folder = make_checkpoint("qwen2-no-head")
    say(folder, architectures=["Qwen2ForSequenceClassification"])
    with pytest.raises(InputError, match="Qwen2ForSequenceClassification: a head that is not supported"):
        Checkpoint.open(folder)


def test_both_versions_of_transformers_turn_by_the_same_base(make_checkpoint):
    """Version 5 writes `rope_parameters`. Version 4 reads `rope_theta`, and takes 10,000 where there is none."""
    folder = make_checkpoint("qwen3")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_theta"]
    parameters = {"rope_type": "default", "rope_theta": 5e6}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": parameters}))
    with Checkpoint.open(folder) as checkpoint:
        published = checkpoint.published_config()
    assert (published["rope_theta"], published["rope_parameters"]) == (5e6, parameters)


def test_vectors_are_those_of_the_last_token_as_transformers_computes_it(make_checkpoint, tmp_path):
    folder = make_checkpoint("qwen3-last")
    texts = ["北京是中国的首都。", "hello world"]
    model = AutoModel.from_pretrained(folder).eval()
    with Checkpoint.open(folder) as checkpoint:
        rows = [checkpoint.text.tokenizer.encode(text).ids for text in texts]
        artifact = export_artifact(checkpoint, "onnx", tmp_path / "onnx")
    with torch.no_grad():
        states = [model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
    expected = np.stack([(state / state.norm()).numpy() for state in states])
    with open_runtime(artifact) as runtime:
        np.testing.assert_allclose(Embedder(runtime)(texts), expected, rtol=0, atol=1e-5)
