"""Dense, sparse and multi-vector embeddings in one pass, against the formulas that FlagEmbedding publishes."""

import numpy as np
import pytest

from tests.artifacts import EVERY_TARGET, export_artifact
from tests.checkpoints import TOKENIZERS, VOCAB, write_tokenizer
from yizhi.errors import InputError
from yizhi.model.spec import TERM_WEIGHTS, TOKEN_VECTORS, TOKEN_WEIGHTS, Pooling
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import RetrievalEmbedder, open_runtime, score_dense, score_multi_vector, score_sparse
from yizhi.runtimes.retrieval import SparseVector, TextVectors

TEXTS = ["北京是中国的首都。", "你", "我在北京的大酒店，天地很好！hello 饕", "中国 中国 首都"]


def flag_embedding(folder, tensors):
    """Of each text, as BGE-M3's `modeling.py` and `inference/embedder/m3.py` do it, over transformers' hidden states.

    sparse: relu(sparse_linear(h)); per id the highest, without cls, eos, pad and unk. multi-vector: colbert_linear of
    all tokens but the first, times the mask, normalized; cut to the number of tokens less one.
    """
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder)(**inputs).last_hidden_state
    weight = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
    dense = torch.nn.functional.normalize(states[:, 0], dim=-1)
    weights = torch.relu(states @ weight["sparse_linear.weight"].T + weight["sparse_linear.bias"]).squeeze(-1)
    vectors = states[:, 1:] @ weight["colbert_linear.weight"].T + weight["colbert_linear.bias"]
    vectors = vectors * inputs["attention_mask"][:, 1:, None].float()
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    unused = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        highest = {}
        for one, number in zip(weights[row].tolist(), ids, strict=True):
            if number not in unused and one > 0 and one > highest.get(number, 0):
                highest[number] = one
        length = int(inputs["attention_mask"][row].sum())
        yield dense[row].numpy(), highest, vectors[row, : length - 1].numpy()


def lexical(one, other):
    """FlagEmbedding's `compute_lexical_matching_score`."""
    return sum(weight * other[number] for number, weight in one.items() if number in other)


def colbert(one, other):
    """FlagEmbedding's `colbert_score`."""
    return np.einsum("in,jn->ij", one, other).max(-1).sum() / len(one)


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_it_is_flag_embeddings(open_artifact, target):
    check_flag_embedding(*open_artifact("bert-m3", target))


def test_it_is_flag_embeddings_with_bge_m3s_own_family(make_checkpoint, tmp_path):
    """Of XLM-R, with a tokenizer of its kind: `<s>`, `</s>`, and padding that is not 0."""
    folder = make_checkpoint("xlm-roberta-m3", config={"vocab_size": 122})
    make_tokenizer, tokenizer_class = TOKENIZERS["xlm-roberta"]
    write_tokenizer(folder, make_tokenizer(), tokenizer_class)
    with Checkpoint.open(folder) as checkpoint:
        artifact = export_artifact(checkpoint, "onnx", tmp_path / "artifact")
        with open_runtime(artifact) as runtime:
            check_flag_embedding(checkpoint, runtime)


def check_flag_embedding(checkpoint, runtime):
    tolerance = {"atol": 1e-5, "rtol": 1e-4} if runtime.artifact.description["precision"] == "fp32" else {"atol": 0.06}
    tensors = {name: checkpoint.array(name) for name in expected_heads()}
    expected = list(flag_embedding(checkpoint.folder, tensors))
    found = RetrievalEmbedder(runtime)(TEXTS)
    for one, (dense, sparse, vectors) in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.dense, dense, **tolerance)
        got = dict(zip(one.sparse.ids.tolist(), one.sparse.weights.tolist(), strict=True))
        for number in sparse.keys() | got.keys():
            np.testing.assert_allclose(got.get(number, 0), sparse.get(number, 0), **tolerance)
        assert one.multi_vector.shape == vectors.shape
        np.testing.assert_allclose(one.multi_vector, vectors, **tolerance)
    for other, (dense, sparse, vectors) in zip(found[1:], expected[1:], strict=True):
        scores = [score(found[0], other) for score in (score_dense, score_sparse, score_multi_vector)]
        theirs = [expected[0][0] @ dense, lexical(expected[0][1], sparse), colbert(expected[0][2], vectors)]
        np.testing.assert_allclose(scores, theirs, **tolerance)


def expected_heads():
    return ("sparse_linear.weight", "sparse_linear.bias", "colbert_linear.weight", "colbert_linear.bias")


def test_the_highest_weight_of_an_id_counts_once(open_artifact):
    _, runtime = open_artifact("bert-m3", "onnx")
    embed = RetrievalEmbedder(runtime)
    cls, sep, unknown = embed._tokenizer.cls_id, embed._tokenizer.sep_id, embed._tokenizer.unknown_id
    ids = np.array([cls, 9, 7, 9, 11, unknown, sep])
    found = embed._highest(ids, np.array([9, 1, 2, 3, 0, 9, 9], np.float32))
    np.testing.assert_array_equal(found.ids, [7, 9])
    np.testing.assert_array_equal(found.weights, np.array([2, 3], np.float32))


def test_the_tokens_outputs_say_something(open_artifact):
    """A head whose weights are all 0 would agree with anything."""
    for variant in ("bert-m3", "xlm-roberta-m3", "albert-m3"):
        checkpoint, runtime = open_artifact(variant, "onnx")
        found = RetrievalEmbedder(runtime)(TEXTS)
        assert 5 <= sum(len(one.sparse.ids) for one in found) < 33
        assert found[0].multi_vector.shape[1] == checkpoint.config.colbert_dim
    assert checkpoint.config.colbert_dim == 12 != checkpoint.config.hidden_size


def test_splades_terms(open_artifact):
    _, runtime = open_artifact("bert-splade", "onnx")
    (found,) = RetrievalEmbedder(runtime)(TEXTS[:1])
    inputs = RetrievalEmbedder(runtime)._tokenizer.encode(TEXTS[:1]).inputs
    logits = runtime.run(inputs, ["logits"])["logits"][0].astype(np.float64)
    expected = np.log1p(np.maximum(logits, 0)).max(axis=0)
    np.testing.assert_array_equal(found.sparse.ids, np.flatnonzero(expected))
    np.testing.assert_allclose(found.sparse.weights, expected[expected > 0], rtol=1e-5, atol=1e-6)
    assert (found.dense, found.multi_vector) == (None, None)


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8", "litert-int8"])
@pytest.mark.parametrize("variant", ["bert-m3", "bert-dense", "bert-splade"])
def test_int8_gives_the_same_bits_with_any_padding_and_batch(open_artifact, variant, target):
    _, runtime = open_artifact(variant, target)
    names = [name for name in runtime.outputs if name in (TOKEN_WEIGHTS, TOKEN_VECTORS, TERM_WEIGHTS)]
    names += ["sentence_embedding"] if "sentence_embedding" in runtime.outputs else []
    ids = np.random.default_rng(0).integers(5, 60, (1, 64))
    for length in (1, 2, 3, 5, 8, 13, 31):
        alone = runtime.run({"input_ids": ids[:, :length]}, names)
        for rows, padded in ((2, length + 1), (3, length + 4)):
            batch = np.repeat(ids[:, :padded], rows, axis=0)
            mask = np.ones_like(batch)
            mask[1, length:] = 0
            found = runtime.run({"input_ids": batch, "attention_mask": mask}, names)
            for name in names:
                got = found[name][1, :length] if name in (TOKEN_WEIGHTS, TOKEN_VECTORS) else found[name][1]
                np.testing.assert_array_equal(got, alone[name][0], err_msg=f"{name} {length} {rows}")


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8", "litert-int8"])
def test_int8_gives_the_same_bits_in_wide_models_too(open_artifact, target):
    """What stays float32 there, Dense modules and the vector of token weights, adds up hundreds of terms."""
    width = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 64, "num_hidden_layers": 1}
    modules = {"mode": "cls", "dense": ((512, "Tanh", True),), "normalize": True, "hidden": 768}
    _, runtime = open_artifact("bert-m3", target, config=width, sentence=modules)
    ids = np.random.default_rng(0).integers(5, 60, (1, 64))
    names = ["sentence_embedding", TOKEN_WEIGHTS, TOKEN_VECTORS]
    for length in (1, 2, 5, 13, 31):
        alone = runtime.run({"input_ids": ids[:, :length]}, names)
        batch = np.repeat(ids[:, : length + 4], 3, axis=0)
        mask = np.ones_like(batch)
        mask[1, length:] = 0
        found = runtime.run({"input_ids": batch, "attention_mask": mask}, names)
        for name in names:
            got = found[name][1] if name == "sentence_embedding" else found[name][1, :length]
            np.testing.assert_array_equal(got, alone[name][0], err_msg=f"{name} {length}")


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8", "litert-int8"])
def test_int8_weighs_a_large_vocabulary_alike_in_any_batch(open_artifact, target):
    """A logarithm of many elements had other last bits where threads shared them out: BERT's vocabulary is as large."""
    vocab = [*VOCAB, *(f"词{number}" for number in range(20_000))]
    small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "vocab_size": len(vocab)}
    _, runtime = open_artifact("bert-splade", target, config=small, vocab=vocab)
    ids = np.random.default_rng(0).integers(5, 60, (8, 9))
    together = runtime.run({"input_ids": ids}, [TERM_WEIGHTS])[TERM_WEIGHTS]
    for row in range(len(ids)):
        alone = runtime.run({"input_ids": ids[row : row + 1]}, [TERM_WEIGHTS])[TERM_WEIGHTS]
        np.testing.assert_array_equal(alone[0], together[row])


def test_kinds_that_are_not_given_are_refused(open_artifact):
    _, runtime = open_artifact("bert-splade", "onnx")
    with pytest.raises(InputError) as caught:
        RetrievalEmbedder(runtime, kinds=["dense", "sparce"])
    assert len(caught.value.faults) == 2
    assert caught.value.faults[0].startswith("dense: expected one of the outputs sentence_embedding; found ")
    _, bare = open_artifact("bert", "onnx")
    with pytest.raises(InputError, match="the artifact's outputs are last_hidden_state"):
        RetrievalEmbedder(bare)
    _, runtime = open_artifact("bert-m3", "onnx")
    (only,) = RetrievalEmbedder(runtime, kinds=["sparse"])(TEXTS[:1])
    assert (only.dense, only.multi_vector) == (None, None)
    with pytest.raises(InputError, match="expected dense of both texts"):
        score_dense(only, only)


def test_scores_of_nothing_in_common():
    one, other = (
        TextVectors(np.ones(2, np.float32), SparseVector(np.array([3]), np.array([2], np.float32)), np.eye(2)),
        TextVectors(np.ones(2, np.float32), SparseVector(np.array([4]), np.array([2], np.float32)), np.empty((0, 2))),
    )
    assert (score_dense(one, other), score_sparse(one, other), score_multi_vector(one, other)) == (2, 0, 0)


@pytest.mark.parametrize(
    ("variant", "pooling", "says"),
    [
        ("bert-no-head", Pooling("splade"), "pooling: splade reads a masked-language model's logits"),
        (
            "qwen3",
            Pooling("splade"),
            "pooling: splade reads a masked-language model's logits; the checkpoint is for text",
        ),
        ("bert", Pooling("splade", normalize=True), "neither cut nor normalized"),
        ("bert", Pooling("mean", dimensions=33), "dimensions: expected 1 … 32; found 33"),
    ],
)
def test_a_pooling_that_does_not_fit_is_refused(open_artifact, variant, pooling, says):
    with pytest.raises(InputError, match=says):
        open_artifact(variant, "onnx", pooling)
