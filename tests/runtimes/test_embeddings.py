"""Embeddings are what transformers' hidden states give, pooled over the text's own tokens."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertTokenizer

from yizhi.errors import InputError
from yizhi.runtimes import Embedder

TEXTS = ["北京是中国的首都。", "你", ("这个酒店", "服务很好！"), "Hello world, hello"]


@pytest.fixture(scope="module")
def runtime(open_variant):
    return open_variant("bert")


@pytest.fixture(scope="module")
def states(open_artifact):
    """Every layer's states [L+1, T, H] of each text, from transformers in float64, one text at a time."""
    folder = open_artifact("bert")[0].folder
    slow = BertTokenizer(str(folder / "vocab.txt"))
    model = AutoModel.from_pretrained(folder).double().eval()
    found = []
    for text in TEXTS:
        inputs = slow(*text, return_tensors="pt") if isinstance(text, tuple) else slow(text, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs, output_hidden_states=True).hidden_states
        found.append(np.stack([layer[0].numpy() for layer in hidden]))
    return found


@pytest.mark.parametrize("layers", [(-1,), (0,), (3,), (-1, -2), (0, 1, 2, 3)])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooled_vectors(runtime, states, layers, pooling):
    pool = {"mean": lambda x: x.mean(0), "cls": lambda x: x[0], "max": lambda x: x.max(0)}[pooling]
    expected = np.stack([pool(np.mean([state[layer] for layer in layers], axis=0)) for state in states])
    found = Embedder(runtime, layers=layers, pooling=pooling)(TEXTS)
    assert (found.shape, found.dtype) == ((len(TEXTS), 32), np.float32)
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-5)
    unit = Embedder(runtime, layers=layers, pooling=pooling, normalize=True)(TEXTS)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-6)


def test_every_tokens_vector(runtime, states):
    for found, state in zip(Embedder(runtime, pooling="none")(TEXTS), states, strict=True):
        np.testing.assert_allclose(found, state[-1], atol=2e-6, rtol=1e-5)


def test_order_and_values_do_not_depend_on_batches(runtime):
    texts = [text for text in TEXTS if isinstance(text, str)] * 7
    embed = Embedder(runtime)
    alone = np.stack([embed([text])[0] for text in texts])
    for window, tokens in ((1, 2048), (5, 16), (1000, 1)):
        np.testing.assert_allclose(embed(texts, window=window, tokens=tokens), alone, atol=2e-6)


def test_long_texts(runtime):
    with pytest.raises(InputError, match=r"expected at most 64 tokens .* found 102"):
        Embedder(runtime)(["的" * 100])
    np.testing.assert_allclose(
        Embedder(runtime, long="truncate")(["的" * 100]), Embedder(runtime)(["的" * 62]), atol=1e-6
    )


def test_nothing_to_embed(runtime):
    assert Embedder(runtime)([]).shape == (0, 32)


def test_settings_that_do_not_exist_are_all_named(runtime):
    with pytest.raises(InputError) as caught:
        Embedder(runtime, layers=(4, -1, -5), pooling="sum", long=8)
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["`layers`", "`layers`", "`pooling`", "`long`"]
    with pytest.raises(InputError, match="expected one or more"):
        Embedder(runtime, layers=())
    with pytest.raises(InputError, match="found one text"):
        Embedder(runtime)("的")
