"""Fine-tuning end to end: data and a checkpoint in, a checkpoint out that export takes."""

import json

import numpy as np
import pytest

from tests.artifacts import export_artifact
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.training.methods import Bottleneck, Full, Lora
from yizhi.training.settings import Settings
from yizhi.training.tasks import classification, reading, tagging
from yizhi.training.tasks.faults import Faults

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from yizhi.training.finetune import finetune  # noqa: E402
from yizhi.training.predict import predict, predict_with_artifact  # noqa: E402
from yizhi.training.transformers_models import build_model  # noqa: E402

pytestmark = pytest.mark.slow

SENTENCES = ["北京好", "山水很好", "房间不干净", "天地", "早餐不好", "服务很快", "花月", "不快"] * 4
QUICK = Settings(max_steps=6, batch_size=8, learning_rate=1e-3, evaluate_every=3, device="cpu")


def write_tags(path, sentences=SENTENCES):
    lines = [
        "".join(f"{c}\t{'B-人' if c in '北山天花' else 'I-人' if c in '京水地月' else 'O'}\n" for c in s)
        for s in sentences
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_labels(path, sentences=SENTENCES):
    rows = [{"text": text, "label": "差" if "不" in text else "好"} for text in sentences]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def write_questions(path):
    entries = [
        {"id": f"Q{n}", "question": "哪个好", "answers": [{"text": "酒店", "answer_start": 3}]} for n in range(8)
    ]
    paragraph = {"context": "北京的酒店服务很好。", "qas": entries}
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}, ensure_ascii=False), encoding="utf-8")
    return path


TASKS = {
    "tag": (tagging.TaggingReader(), write_tags, "train.txt"),
    "classify": (classification.ClassificationReader(), write_labels, "train.jsonl"),
    "answer": (reading.SquadReader(), write_questions, "train.json"),
}


def run(base, tmp_path, kind="tag", settings=QUICK, method=None, out="out", **options):
    reader, write, name = TASKS[kind]
    data = write(tmp_path / name)
    return finetune(base, reader, data, data, tmp_path / out, settings, method or Full(), **options)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *(("bert", kind) for kind in TASKS),
        ("albert", "classify"),
        ("electra-generator", "classify"),
        ("megatron-bert", "tag"),
        ("roformer", "classify"),
        ("modernbert", "tag"),
        ("modernbert", "classify"),
    ],
)
def test_every_task_and_family_gives_a_checkpoint_whose_artifact_scores_the_same(
    make_checkpoint, tmp_path, family, kind
):
    outcome = run(make_checkpoint(family), tmp_path, kind)
    reader, _, name = TASKS[kind]
    with Checkpoint.open(tmp_path / "out") as trained:
        assert trained.ignored == {}
        if kind != "answer":
            assert trained.spec.head.labels == outcome.labels
        artifact = export_artifact(trained, "onnx", tmp_path / "onnx")
    examples = reader.read(tmp_path / name, Faults())
    task = reader.make_task(examples)
    with open_runtime(artifact) as runtime:
        tokenizer = Tokenizer.open(artifact)
        features = task.encode(examples, tokenizer, Faults())
        scores = task.score(examples, features, predict_with_artifact(runtime, features, tokenizer.pad_id))
    expected = {name: value for name, value in outcome.scores.items() if name != "loss"}
    assert scores == pytest.approx(expected, abs=0.05)  # random models: a tie may fall to the other side
    assert (tmp_path / "out" / "training.svg").stat().st_size > 1000
    assert not (tmp_path / "out.partial").exists()


def test_a_tagger_learns_and_the_record_says_how(make_checkpoint, tmp_path):
    settings = Settings(epochs=12, batch_size=8, learning_rate=5e-3, device="cpu")
    outcome = run(make_checkpoint(), tmp_path, settings=settings)
    assert outcome.scores["f1"] > 0.95
    assert outcome.labels == ("O", "B-人", "I-人")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert record["scores"] == outcome.scores
    assert record["run"]["settings"]["learning_rate"] == 5e-3
    assert record["log"][0]["loss"] > record["log"][-3]["loss"]
    assert len([entry for entry in record["log"] if "eval_f1" in entry]) == 12
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {"0": "O", "1": "B-人", "2": "I-人"}


def tensors(folder):
    with Checkpoint.open(folder) as checkpoint:
        return {parameter.name: checkpoint.array(parameter.name).copy() for parameter in checkpoint.parameters()}


def test_frozen_layers_stay_and_the_others_move(make_checkpoint, tmp_path):
    base = make_checkpoint()
    run(base, tmp_path, method=Full(freeze_layers=2))
    before, after = tensors(base), tensors(tmp_path / "out")
    for name, array in after.items():
        frozen = name.startswith(("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1."))
        if name in before:
            # A key's bias moves no softmax.
            assert np.array_equal(array, before[name]) == frozen or name.endswith("key.bias"), name


@pytest.mark.parametrize(
    ("variant", "count", "fault"), [("bert", 4, "expected 0 … 3; found 4"), ("albert", 1, "layers share their weights")]
)
def test_layers_that_cannot_be_frozen(make_checkpoint, tmp_path, variant, count, fault):
    with pytest.raises(InputError, match=fault):
        run(make_checkpoint(variant), tmp_path, method=Full(freeze_layers=count))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{variant}", "train.txt"]


@pytest.mark.parametrize("variant", ["bert-no-pooler", "albert"])
def test_lora_merged_is_lora_applied(make_checkpoint, tmp_path, variant):
    import peft

    base = make_checkpoint(variant)
    settings = Settings(max_steps=8, batch_size=8, learning_rate=2e-2, device="cpu")
    outcome = run(base, tmp_path, "classify", settings, Lora(keep=True))
    assert 0 < outcome.trained < outcome.parameters
    examples = classification.ClassificationReader().read(tmp_path / "train.jsonl", Faults())
    task = classification.ClassificationReader().make_task(examples)
    features = task.encode(examples, Tokenizer.open(base), Faults())
    with Checkpoint.open(base) as checkpoint, Checkpoint.open(tmp_path / "out") as merged:
        plain, _ = build_model(checkpoint, "ForSequenceClassification", task.config())
        untouched, _ = predict(plain.eval(), features, 0)
        applied, _ = predict(peft.PeftModel.from_pretrained(plain, tmp_path / "out" / "lora").eval(), features, 0)
        found, _ = predict(build_model(merged, "ForSequenceClassification", task.config())[0].eval(), features, 0)
    np.testing.assert_allclose(found, applied, rtol=1e-5, atol=1e-5)
    assert np.abs(np.array(applied) - np.array(untouched)).max() > 0.01
    before, after = tensors(base), tensors(tmp_path / "out")
    moved = {name for name, array in after.items() if name in before and not np.array_equal(array, before[name])}
    assert moved
    assert all(name.endswith(("query.weight", "value.weight")) for name in moved)


@pytest.mark.parametrize(
    ("variant", "kind"), [("bert", "seq_bn"), ("albert", "double_seq_bn"), ("electra-generator", "par_bn")]
)
def test_an_adapter_is_trained_alone_and_leaves_in_the_graph(make_checkpoint, tmp_path, variant, kind):
    pytest.importorskip("adapters")
    base = make_checkpoint(variant)
    method = Bottleneck(kind, reduction_factor=4)
    outcome = run(base, tmp_path, method=method)
    assert outcome.trained < outcome.parameters / 2
    before, after = tensors(base), tensors(tmp_path / "out")
    assert all(np.array_equal(before[name], after[name]) for name in before.keys() & after.keys())
    ups = [name for name in after if name.endswith("adapter_up.weight")]
    assert ups
    assert all(np.abs(after[name]).max() > 0 for name in ups)
    reader, _, name = TASKS["tag"]
    with Checkpoint.open(tmp_path / "out") as trained:
        assert trained.config.adapter.name == "finetuned"
        artifact = export_artifact(trained, "onnx", tmp_path / "onnx")
        with pytest.raises(InputError, match="holds the adapter finetuned"):
            build_model(trained, "ForTokenClassification", {})
    examples = reader.read(tmp_path / name, Faults())
    task = reader.make_task(examples)
    with open_runtime(artifact) as runtime:
        tokenizer = Tokenizer.open(artifact)
        features = task.encode(examples, tokenizer, Faults())
        found = predict_with_artifact(runtime, features, tokenizer.pad_id)
    assert task.score(examples, features, found) == pytest.approx(
        {name: value for name, value in outcome.scores.items() if name != "loss"}, abs=0.05
    )


def test_an_adapter_for_a_family_without(make_checkpoint, tmp_path):
    pytest.importorskip("adapters")
    with pytest.raises(InputError, match="expected one of bert, albert, electra; found megatron-bert"):
        run(make_checkpoint("megatron-bert"), tmp_path, method=Bottleneck())


def test_unknown_lora_modules(make_checkpoint, tmp_path):
    with pytest.raises(InputError, match="the model has no qkv"):
        run(make_checkpoint(), tmp_path, method=Lora(modules=("query", "qkv")))


@pytest.mark.parametrize("method", [Full(), Bottleneck("double_seq_bn", 4)], ids=["full", "adapter"])
def test_an_interrupted_run_goes_on_and_another_is_refused(make_checkpoint, tmp_path, monkeypatch, method):
    from yizhi.training import loop

    if isinstance(method, Bottleneck):
        pytest.importorskip("adapters")
    base = make_checkpoint(config={"hidden_dropout_prob": 0.1})
    whole = run(base, tmp_path, out="whole", method=method)
    train = loop.train

    def interrupted(*arguments, **options):
        class Stop(loop.transformers.TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                if state.global_step == 4:
                    raise KeyboardInterrupt

        return train(*arguments, **options, callbacks=[Stop()])

    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path, method=method)
    monkeypatch.setattr(loop, "train", train)
    assert (tmp_path / "out.partial" / "checkpoint-3").is_dir()
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError) as caught:
        run(base, tmp_path, settings=Settings(**{**QUICK.as_dict(), "learning_rate": 1.0}), method=method)
    assert caught.value.faults[1:] == ["settings.learning_rate: was 0.001; is 1.0"]
    resumed = run(base, tmp_path, method=method)
    assert resumed.history.resumed_at == 3
    assert resumed.scores == whole.scores
    for name, array in tensors(tmp_path / "whole").items():
        np.testing.assert_array_equal(tensors(tmp_path / "out")[name], array, err_msg=name)


def test_an_interrupted_run_does_not_go_on_with_another_column(make_checkpoint, tmp_path, monkeypatch):
    from yizhi.training import loop

    def interrupted(*arguments, **options):
        (tmp_path / "out.partial" / "checkpoint-1").mkdir()
        raise KeyboardInterrupt

    base, train = make_checkpoint(), tmp_path / "train.jsonl"
    rows = [{"text": "好", "title": "坏", "label": label} for label in "ab"]
    train.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune(base, classification.ClassificationReader(), train, None, tmp_path / "out", QUICK, Full())
    other = classification.ClassificationReader(column="title")
    with pytest.raises(InputError, match=r"columns\.column: was 'text'; is 'title'"):
        finetune(base, other, train, None, tmp_path / "out", QUICK, Full())


def test_a_head_that_is_there_is_trained_on(make_checkpoint, tmp_path):
    run(make_checkpoint(), tmp_path)
    outcome = run(tmp_path / "out", tmp_path, out="more")
    assert outcome.new == ()


def test_a_head_with_other_labels_is_refused_unless_replaced(make_checkpoint, tmp_path):
    base = make_checkpoint("bert-tagger")  # B-人, I-人, B-地, I-地
    write_tags(tmp_path / "train.txt")
    with pytest.raises(InputError) as caught:
        run(make_checkpoint("bert-tagger", name="few", config={"id2label": {"0": "O", "1": "B-人"}}), tmp_path)
    assert "tag 'I-人' is unknown" in caught.value.faults[1]
    assert caught.value.faults[0].endswith("few: its head has 2 labels; `new_head` replaces it")
    assert run(base, tmp_path).labels == ("O", "B-人", "I-人", "B-地", "I-地")
    assert run(base, tmp_path, out="new", new_head=True).labels == ("O", "B-人", "I-人")


def test_a_head_of_another_kind_is_refused(make_checkpoint, tmp_path):
    with pytest.raises(InputError, match="its head is for multi_label_classification; `new_head`"):
        run(make_checkpoint("bert-multi-label"), tmp_path, "classify")


def test_faults_of_both_files_are_told_together_and_nothing_is_left(make_checkpoint, tmp_path):
    base = make_checkpoint()
    (tmp_path / "train.txt").write_text("北\tB-LOC\n京\n")
    (tmp_path / "dev.txt").write_text("北\tB-PER\n\n")
    with pytest.raises(InputError) as caught:
        finetune(
            base, tagging.TaggingReader(), tmp_path / "train.txt", tmp_path / "dev.txt", tmp_path / "out", QUICK, Full()
        )
    assert len(caught.value.faults) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-bert", "dev.txt", "train.txt"]


def test_faulty_rows_are_left_out_on_request(make_checkpoint, tmp_path):
    data = write_tags(tmp_path / "train.txt")
    data.write_text(data.read_text(encoding="utf-8") + "\n京\n", encoding="utf-8")
    arguments = (make_checkpoint(), tagging.TaggingReader(), data, None, tmp_path / "out", QUICK, Full())
    outcome = finetune(*arguments, skip_faulty=True)
    assert outcome.skipped == (
        f"{data}, line {data.read_text(encoding='utf-8').count(chr(10))}: expected a token and its tag; found '京'",
    )
    assert outcome.scores == {}


def test_a_folder_of_somebody_else_is_not_replaced(make_checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="Yizhi does not replace"):
        run(make_checkpoint(), tmp_path)
