"""Documents are ordered as transformers' logits order them, and long ones are cut or read whole."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.checkpoints import TOKENIZER_VARIANTS
from yizhi.errors import InputError
from yizhi.runtimes import Classifier, Ranker, Reranker

QUERY = "北京在哪里？"
DOCUMENTS = ["北京是中国的首都。", "你", "这个酒店的服务很好。", "Hello world"]
LONG = "的" * 40 + "好" * 90


def logits_of(runtime, pairs):
    folder = runtime.artifact.folder
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = AutoTokenizer.from_pretrained(folder)(
        *map(list, zip(*pairs, strict=True)), padding=True, truncation="only_second", return_tensors="pt"
    )
    with torch.no_grad():
        return model(**given).logits.numpy()


def test_scores_are_transformers_logits_and_their_sigmoid(open_variant):
    runtime = open_variant("bert-regression")
    pairs = [(QUERY, document) for document in [*DOCUMENTS, LONG]]
    logits = logits_of(runtime, pairs)[:, 0]
    found = Reranker(runtime).many(pairs)
    np.testing.assert_allclose([one.logit for one in found], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([one.score for one in found], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert [one.score for one in Reranker(runtime, raw=True).many(pairs)] == [one.logit for one in found]


def test_the_best_come_first(open_variant):
    runtime = open_variant("bert-regression")
    rerank = Reranker(runtime)
    scores = [rerank((QUERY, document)).logit for document in DOCUMENTS]
    ranked = rerank.rank(QUERY, DOCUMENTS)
    assert [one.index for one in ranked] == list(np.argsort(-np.array(scores)))
    assert [one.text for one in ranked] == [DOCUMENTS[one.index] for one in ranked]
    assert rerank.rank(QUERY, DOCUMENTS, top_k=2) == ranked[:2]
    assert Ranker(runtime, documents=DOCUMENTS, top_k=1).many([QUERY, "好吗"])[0] == ranked[:1]
    assert [one.index for one in rerank.rank(QUERY, ["好", "好", "好"])] == [0, 1, 2]


def test_two_labels_rank_as_the_second_s_softmax(open_variant):
    runtime = open_variant("bert-classifier", config={"id2label": {"0": "无关", "1": "有关"}})
    found = Reranker(runtime)((QUERY, DOCUMENTS[0]))
    of_labels = {one.label: one.score for one in Classifier(runtime)((QUERY, DOCUMENTS[0]))}
    assert found.score == pytest.approx(of_labels["有关"])


@pytest.mark.parametrize(
    ("config", "raw"),
    [
        ({}, False),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, True),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, False),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}}, True),
    ],
)
def test_scores_are_cross_encoder_s(open_variant, config, raw):
    from sentence_transformers import CrossEncoder

    runtime = open_variant("bert-regression", config={"num_labels": 1, "id2label": {"0": "相关"}, **config})
    found = Reranker(runtime)((QUERY, DOCUMENTS[0]))
    oracle = CrossEncoder(str(runtime.artifact.folder), device="cpu").predict([(QUERY, DOCUMENTS[0])])
    assert found.score == pytest.approx(oracle[0], rel=1e-5)
    assert (found.score == found.logit) is raw
    assert Reranker(runtime, raw=not raw)((QUERY, DOCUMENTS[0])).logit == found.logit


def test_long_documents(open_variant):
    runtime = open_variant("bert-regression")
    cut = Reranker(runtime)((QUERY, LONG))
    room = Reranker(runtime)._tokenizer.max_length - 3 - 6
    assert cut == Reranker(runtime)((QUERY, LONG[:room]))
    read = Reranker(runtime, long=0)((QUERY, LONG))
    parts = Reranker(runtime).many([(QUERY, LONG[start : start + room]) for start in range(0, len(LONG), room)])
    assert read == max(parts, key=lambda part: part.logit)
    with pytest.raises(InputError, match="expected at most 64 tokens"):
        Reranker(runtime, long="error")((QUERY, LONG))
    with pytest.raises(InputError, match="expected at most 60 tokens, to leave room for its pair; found 130"):
        Reranker(runtime)((LONG, DOCUMENTS[0] * 9))


def test_a_reranker_of_xlm_roberta(open_variant):
    """The shape of bge-reranker: one token type, <s> query </s></s> document </s>, the document alone cut."""
    variant = "xlm-roberta-own-classifier"
    config = {**TOKENIZER_VARIANTS[variant]["config"], "id2label": {"0": "相关"}}
    runtime = open_variant(variant, config=config)
    pairs = [(QUERY, document) for document in [*DOCUMENTS, LONG]]
    logits = logits_of(runtime, pairs)[:, 0]
    np.testing.assert_allclose([one.logit for one in Reranker(runtime).many(pairs)], logits, rtol=1e-5, atol=1e-6)
    assert Reranker(runtime, long="windows")((QUERY, LONG)).logit >= Reranker(runtime)((QUERY, LONG)).logit


def test_what_cannot_be_ranked(open_variant):
    runtime = open_variant("bert-regression")
    with pytest.raises(InputError, match=r"cannot rank documents: expected one label, or two .*; found 3: '差', '中'"):
        Reranker(open_variant("bert-classifier"))
    with pytest.raises(InputError, match="cannot rank documents: the checkpoint is a masked-language model"):
        Reranker(open_variant("bert"))
    single = {"type_vocab_size": 1, "id2label": {"0": "好评"}}
    with pytest.raises(InputError, match="expected a model for pairs, with 2 token types; found 1"):
        Reranker(open_variant("bert-regression", config=single))
    strange = {"id2label": {"0": "好评"}, "sbert_ce_default_activation_function": "torch.nn.Tanh"}
    with pytest.raises(InputError, match=r"or torch\.nn\.Identity; found 'torch\.nn\.Tanh'; or give `raw`"):
        Reranker(open_variant("bert-regression", config=strange))
    with pytest.raises(InputError, match="expected a query and a document; found '北京'"):
        Reranker(runtime)("北京")
    with pytest.raises(InputError, match="the query is empty\n  - the document is empty"):
        Reranker(runtime)((" ", ""))
    with pytest.raises(InputError, match=r"document 1 of 2: the document is empty\n  - document 2 of 2"):
        Reranker(runtime).rank(QUERY, ["", " "])
    with pytest.raises(InputError, match="the query:\n  - expected a text; found ''"):
        Reranker(runtime).rank("", DOCUMENTS)
    for documents in ([], "北京"):
        with pytest.raises(InputError, match="expected a list of texts, one or more; found"):
            Reranker(runtime).rank(QUERY, documents)
    for top_k in (0, True, "1"):
        with pytest.raises(InputError, match="top_k:\n  - expected 1 or more; found"):
            Ranker(runtime, documents=DOCUMENTS, top_k=top_k)
