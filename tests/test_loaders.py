"""Other people's loaders take an exported folder as it is, and give the answers that our own runtime gives."""

import numpy as np
import pytest

from tests.artifacts import export_artifact
from yizhi.model.label_heads import SEQUENCE, TOKENS
from yizhi.model.spec import Pooling
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Embedder, open_runtime

pytestmark = pytest.mark.slow  # optimum, OpenVINO and sentence-transformers take long to import

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

TEXTS = ["北[MASK]是中国的首都。", "这个酒店，服务 [MASK] good！"]
QUESTION, CONTEXT = "首都是哪里？", "北京是中国的首都。"
# What comes after `AutoModelFor`, `ORTModelFor` and `OVModelFor`, and what `pipeline` calls the task.
HEADS = {
    "no-head": ("FeatureExtraction", "feature-extraction"),
    "classifier": ("SequenceClassification", "text-classification"),
    "tagger": ("TokenClassification", "token-classification"),
    "reader": ("QuestionAnswering", "question-answering"),
    "fill-mask": ("MaskedLM", "fill-mask"),
}
FAMILIES = {
    **{"bert": "bert", "albert": "albert", "electra": "electra-generator", "megatron-bert": "megatron-bert"},
    **{"ernie": "ernie", "nezha": "nezha", "roberta": "roberta", "xlm-roberta": "xlm-roberta"},
    "roformer": "roformer",
}
VARIANTS = [
    (FAMILIES[family] if head == "fill-mask" else f"{family}-{head}", *names)
    for family in FAMILIES
    for head, names in HEADS.items()
]
# optimum's pipelines have no causal model without a cache.
BARE_DECODERS = [(f"{family}-no-head", *HEADS["no-head"]) for family in ("qwen2", "qwen3")]
DECODERS = [(family, "CausalLM", "text-generation") for family in ("qwen2", "qwen3")]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def tokens(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")


def run(runtime, given, outputs):
    return runtime.run({name: array.numpy() for name, array in given.items()}, outputs)


def check_output(found, runtime, given):
    """A model's output of any of these libraries is our runtime's; rows of padding aside."""
    real = given["attention_mask"].numpy() == 1
    if "start_logits" in found:
        expected = run(runtime, given, ["logits"])["logits"]
        got = np.stack([np.asarray(found[name].detach()) for name in ("start_logits", "end_logits")], axis=-1)
    else:
        name = "logits" if "logits" in found else "last_hidden_state"
        expected, got = run(runtime, given, [name])[name], np.asarray(found[name].detach())
    if got.ndim == 3:
        expected, got = expected[real], got[real]
    np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("variant", "head", "task"), [*VARIANTS, *BARE_DECODERS, *DECODERS])
def test_transformers_loads_a_pytorch_folder(open_variant, variant, head, task):
    runtime = open_variant(variant, "pytorch")
    folder = runtime.artifact.folder
    loader = transformers.AutoModel if head == "FeatureExtraction" else getattr(transformers, f"AutoModelFor{head}")
    model, report = loader.from_pretrained(folder, output_loading_info=True)
    assert not [key for key in report["missing_keys"] if "pooler" not in key]
    assert not report["unexpected_keys"]
    check_output(model.eval()(**tokens(folder)), runtime, tokens(folder))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
@pytest.mark.parametrize(("variant", "head", "task"), [*VARIANTS, *BARE_DECODERS])
def test_optimum_loads_an_onnx_folder(open_variant, variant, head, task, target):
    optimum = pytest.importorskip("optimum.onnxruntime")
    runtime = open_variant(variant, target)
    folder = runtime.artifact.folder
    model = getattr(optimum, f"ORTModelFor{head}").from_pretrained(folder)
    check_output(model(**tokens(folder)), runtime, tokens(folder))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("variant", "head", "task"), VARIANTS)
def test_openvino_loads_a_float32_onnx_folder(open_variant, variant, head, task):
    openvino = pytest.importorskip("optimum.intel.openvino")
    runtime = open_variant(variant, "onnx")
    folder = runtime.artifact.folder
    exact = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    model = getattr(openvino, f"OVModelFor{head}").from_pretrained(
        folder, from_onnx=True, file_name="model.onnx", **exact
    )
    check_output(model(**tokens(folder)), runtime, tokens(folder))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["openvino", "openvino-int8"])
@pytest.mark.parametrize(("variant", "head", "task"), [*VARIANTS, *BARE_DECODERS, *DECODERS])
def test_optimum_intel_loads_an_openvino_folder(open_variant, variant, head, task, target):
    optimum = pytest.importorskip("optimum.intel.openvino")
    runtime = open_variant(variant, target)
    folder = runtime.artifact.folder
    exact = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    cache = {"use_cache": False} if head == "CausalLM" else {}
    model = getattr(optimum, f"OVModelFor{head}").from_pretrained(folder, **exact, **cache)
    check_output(model(**tokens(folder)), runtime, tokens(folder))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["pytorch", "onnx", "onnx-int8"])
@pytest.mark.parametrize(("variant", "head", "task"), VARIANTS)
def test_a_pipeline_answers(open_variant, variant, head, task, target):
    runtime = open_variant(variant, target)
    folder = runtime.artifact.folder
    if target == "pytorch":
        answer = transformers.pipeline(task, str(folder), framework="pt", device="cpu")
    else:
        optimum = pytest.importorskip("optimum.onnxruntime")
        answer = optimum.pipeline(task, str(folder), accelerator="ort")
    tokenizer = answer.tokenizer
    given = tokenizer(TEXTS[0], return_tensors="pt")
    if task == "question-answering":
        found = answer(question=QUESTION, context=CONTEXT, align_to_words=False, max_answer_len=30)
        pair = tokenizer(QUESTION, CONTEXT, return_tensors="pt")
        starts, ends = np.moveaxis(run(runtime, pair, ["logits"])["logits"][0], -1, 0)
        inside = np.array([part == 1 for part in pair.sequence_ids(0)])
        compared = inside.copy()
        compared[0] = True  # the pipeline's probabilities count [CLS], which stands for no answer
        start, end = softmax(starts, compared) * inside, softmax(ends, compared) * inside
        scores = np.triu(start[:, None] * end[None])
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        offsets = tokenizer(QUESTION, CONTEXT, return_offsets_mapping=True)["offset_mapping"]
        assert found["answer"] == CONTEXT[offsets[first][0] : offsets[last][1]]
        assert found["score"] == pytest.approx(scores.max(), rel=1e-3)
        return
    name = "last_hidden_state" if task == "feature-extraction" else "logits"
    expected = run(runtime, given, [name])[name][0]
    found = answer(TEXTS[0])
    labels = runtime.artifact.description.get("labels")
    if task == "feature-extraction":
        np.testing.assert_allclose(found[0], expected, **CLOSE)
    elif runtime.artifact.description["task"] == SEQUENCE:
        scores = softmax(expected)
        assert (found[0]["label"], labels) == (labels[scores.argmax()], list(labels))
        assert found[0]["score"] == pytest.approx(scores.max(), rel=1e-3)
    elif runtime.artifact.description["task"] == TOKENS:
        best = [labels[index] for index in expected[1:-1].argmax(axis=-1)]
        # The pipeline leaves `O` out.
        assert [one["entity"] for one in found] == [label for label in best if label != "O"]
        ours = {position: softmax(row).max() for position, row in enumerate(expected)}
        np.testing.assert_allclose([one["score"] for one in found], [ours[one["index"]] for one in found], rtol=1e-3)
    else:
        (place,) = np.flatnonzero(given["input_ids"][0].numpy() == tokenizer.mask_token_id)
        scores = softmax(expected[place])
        assert found[0]["token"] == scores.argmax()
        assert found[0]["score"] == pytest.approx(scores.max(), rel=1e-3)


def softmax(logits, kept=None):
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max()) * (1 if kept is None else kept)
    return powers / powers.sum()


def load(name, folder, target):
    library = pytest.importorskip("sentence_transformers")
    if target == "pytorch":
        return getattr(library, name)(str(folder))
    backend = target.removesuffix("-int8")
    exact = {"model_kwargs": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}} if backend == "openvino" else {}
    return getattr(library, name)(str(folder), backend=backend, **exact)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["pytorch", "onnx", "onnx-int8", "openvino", "openvino-int8"])
@pytest.mark.parametrize("pooling", [Pooling("mean", True), Pooling("cls"), Pooling("max", True)], ids=str)
def test_sentence_transformers_gives_our_vectors(open_artifact, target, pooling):
    runtime = open_artifact("bert-no-head", target, pooling)[1]
    found = load("SentenceTransformer", runtime.artifact.folder, target).encode(TEXTS)
    expected = run(runtime, tokens(runtime.artifact.folder), ["sentence_embedding"])["sentence_embedding"]
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["pytorch", "onnx", "onnx-int8", "openvino", "openvino-int8"])
@pytest.mark.parametrize("labels", [1, 3])
def test_cross_encoder_scores_pairs(open_variant, target, labels):
    changes = {"config": {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    runtime = open_variant("bert-classifier", target, **(changes if labels == 1 else {}))
    folder = runtime.artifact.folder
    found = load("CrossEncoder", folder, target).predict([(QUESTION, CONTEXT)])
    given = transformers.AutoTokenizer.from_pretrained(folder)(QUESTION, CONTEXT, return_tensors="pt")
    logits = run(runtime, given, ["logits"])["logits"]
    # With one label the library gives the sigmoid, with several the logits.
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits[:, 0])) if labels == 1 else logits, **CLOSE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["pytorch", "onnx", "onnx-int8", "openvino"])
@pytest.mark.parametrize(
    ("variant", "pooling"),
    [
        ("bert-dense", None),
        ("albert-dense", None),
        ("bert-no-head", Pooling("last", True, 12)),
        ("bert-no-head", Pooling("last", False, 12)),
    ],
)
def test_sentence_transformers_goes_through_dense_modules_and_cuts(open_artifact, target, variant, pooling):
    runtime = open_artifact(variant, target, pooling)[1]
    found = load("SentenceTransformer", runtime.artifact.folder, target).encode(TEXTS)
    expected = run(runtime, tokens(runtime.artifact.folder), ["sentence_embedding"])["sentence_embedding"]
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_sentence_transformers_gives_its_vectors(make_checkpoint, tmp_path):
    """What the library makes of the checkpoint's own folder, and not of one that we wrote."""
    folder = make_checkpoint("bert-dense")
    expected = load("SentenceTransformer", folder, "pytorch").encode(TEXTS)
    with Checkpoint.open(folder) as checkpoint:
        artifact = export_artifact(checkpoint, "onnx", tmp_path / "artifact")
    with open_runtime(artifact) as runtime:
        np.testing.assert_allclose(Embedder(runtime)(TEXTS), expected, **CLOSE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["pytorch", "onnx", "onnx-int8", "openvino", "openvino-int8"])
def test_sparse_encoder_gives_splade_vectors(open_variant, target):
    """max over a text's tokens of log(1 + max(logit, 0)): Formal et al. 2021, arXiv:2109.10086, equation 6."""
    runtime = open_variant("bert", target)
    folder = runtime.artifact.folder
    found = load("SparseEncoder", folder, target).encode(TEXTS).to_dense().numpy()
    given = tokens(folder)
    real = given["attention_mask"].numpy()[:, :, None] == 1
    weights = np.log1p(np.maximum(run(runtime, given, ["logits"])["logits"], 0))
    np.testing.assert_allclose(found, np.where(real, weights, 0).max(axis=1), **CLOSE)


def test_no_loader_changes_a_folder(open_variant):
    """A folder that others have loaded is as it was."""
    for target in ("pytorch", "onnx", "onnx-int8", "openvino", "openvino-int8"):
        folder = open_variant("bert", target).artifact.folder
        with open_runtime(folder) as runtime:
            assert not runtime.artifact.find_altered_files()
