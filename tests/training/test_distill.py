"""Distillation: the losses are their formulas, and a student learns from its teacher, stops, goes on, and leaves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests.training.test_finetune import write_labels, write_tags
from tests.training.test_loop import StopAt
from tests.training.test_pretrain import TEXT, objective
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.model.spec import parameters_of
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentence_settings import PROMPTS
from yizhi.training.distillation_weights import Weights
from yizhi.training.settings import Settings

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from yizhi.model.label_heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL  # noqa: E402
from yizhi.training import loop  # noqa: E402
from yizhi.training.distill import distill  # noqa: E402
from yizhi.training.distillation_losses import hidden_loss, logits_loss, relation_loss  # noqa: E402
from yizhi.training.features import IGNORED  # noqa: E402
from yizhi.training.lessons import from_labels, from_text  # noqa: E402
from yizhi.training.unlabelled import ASKED, answer  # noqa: E402
from yizhi.training.work import RECORD  # noqa: E402

pytestmark = pytest.mark.slow

QUICK = Settings(max_steps=4, batch_size=4, learning_rate=1e-3, evaluate_every=2, device="cpu", threads=1)
ALL = Weights()
NAN = float("nan")


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape))


# --- the losses


def test_logits():
    mine, its = random(5, 7), random(5, 7, seed=1)
    p, q = (scipy.special.softmax(logits.numpy() / 3, axis=-1) for logits in (its, mine))
    expected = 9 * np.mean([scipy.stats.entropy(*rows) for rows in zip(p, q, strict=True)])
    assert float(logits_loss(mine, its, 3.0)) == pytest.approx(expected)
    assert float(logits_loss(its, its, 3.0)) == pytest.approx(0)
    assert float(logits_loss(mine, its, 3.0, REGRESSION)) == pytest.approx(float(((mine - its) ** 2).mean()))
    p, q = (scipy.special.expit(logits.numpy() / 3) for logits in (its, mine))
    expected = 9 * np.mean(-p * np.log(q) - (1 - p) * np.log(1 - q))
    assert float(logits_loss(mine, its, 3.0, MULTI_LABEL)) == pytest.approx(expected)


def test_hidden_states_of_own_tokens_by_layer():
    """Of four layers, two learn from the second and the last; the embeddings from the embeddings."""
    teacher = [random(2, 3, 4, seed=layer) for layer in range(5)]
    student = [state + shift for state, shift in zip((teacher[0], teacher[2], teacher[4]), (1, 2, 3), strict=True)]
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    student[2][0, 2] = 1e6  # padding
    assert float(hidden_loss(student, teacher, mask)) == pytest.approx((1 + 4 + 9) / 3, rel=1e-5)


def test_relations_of_own_tokens():
    mine, its = ([random(2, 3, 8, seed=seed + part) for part in range(3)] for seed in (0, 9))
    lengths = (2, 3)
    mask = torch.tensor([[1] * length + [0] * (3 - length) for length in lengths])
    parts = []
    for one, other in zip(mine, its, strict=True):
        rows = []
        for row, length in enumerate(lengths):
            for head in (slice(0, 4), slice(4, 8)):
                scores = [part[row, :length, head].numpy() for part in (other, one)]
                p, q = (scipy.special.softmax(a @ a.T / 2, axis=-1) for a in scores)
                rows += [scipy.stats.entropy(*pair) for pair in zip(p, q, strict=True)]
        parts.append(np.mean(rows))
    assert float(relation_loss(mine, its, 2, mask)) == pytest.approx(np.mean(parts), rel=1e-5)
    assert float(relation_loss(its, its, 2, mask)) == pytest.approx(0, abs=1e-6)


def test_weights_that_mean_nothing_are_told_together():
    with pytest.raises(InputError) as error:
        Weights(labels=-1, logits=float("nan"), temperature=0)
    assert len(error.value.faults) == 3
    with pytest.raises(InputError, match="nothing to distil"):
        Weights(logits=0, hidden=0, relations=0)


# --- students


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 3, encoding="utf-8")
    return path


def learn(base, out, text, settings=QUICK, layers=2, weights=ALL, **options):
    return distill(base, layers, out, settings, weights, from_text(objective(text, evaluation=(text,))), **options)


def tensors(folder):
    with Checkpoint.open(folder) as checkpoint:
        return {parameter.name: checkpoint.array(parameter.name).copy() for parameter in checkpoint.parameters()}


@pytest.mark.parametrize(
    "variant",
    [
        "bert",
        "bert-untied",
        "albert",
        "electra-generator",
        "megatron-bert",
        "ernie",
        "nezha",
        "roberta",
        "roformer",
        "modernbert",
    ],
)
def test_every_family_gives_a_student(variant, make_checkpoint, tmp_path, text):
    base = make_checkpoint(variant)
    outcome = learn(base, tmp_path / "out", text)
    assert (outcome.teacher.layers, outcome.student.layers) == (3, 2)
    assert outcome.student.parameters <= outcome.teacher.parameters
    with Checkpoint.open(tmp_path / "out") as student:
        assert (len(student.spec.blocks), student.spec.task) == (2, "fill-mask")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("name", ["logits", "hidden", "relations"])
def test_each_loss_alone_brings_the_student_nearer(name, make_checkpoint, tmp_path, text):
    weights = Weights(**{**dict.fromkeys(("labels", "logits", "hidden", "relations"), 0.0), name: 1.0})
    settings = Settings(max_steps=30, batch_size=8, learning_rate=3e-3, device="cpu", threads=1)
    outcome = learn(make_checkpoint(config={"hidden_dropout_prob": 0.0}), tmp_path / "out", text, settings, 1, weights)
    losses = [entry["loss"] for entry in outcome.history.log if "loss" in entry]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:2])


def test_the_record_has_every_side(make_checkpoint, tmp_path, text):
    outcome = learn(make_checkpoint(), tmp_path / "out", text, baseline=True)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert record["run"]["layers"] == [0, 1]
    assert record["student"]["scores"] == outcome.student.scores
    assert {record[side]["layers"] for side in ("student", "baseline")} == {2}
    assert record["baseline"]["scores"] != record["student"]["scores"]
    assert [entry["step"] for entry in record["baseline_log"] if "loss" in entry] == [1, 2, 3, 4]
    assert {"training.svg", "baseline.svg"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_the_baseline_is_the_student_without_its_teacher(make_checkpoint, tmp_path, text):
    """The labels alone, with a weight of nothing for the rest, are what the baseline learns."""
    whole = learn(make_checkpoint(), tmp_path / "one", text, baseline=True)
    almost = learn(make_checkpoint(), tmp_path / "two", text, weights=Weights(1.0, 1e-30, 0.0, 0.0))
    assert almost.student.scores == pytest.approx(whole.baseline.scores, rel=1e-6)


@pytest.mark.parametrize("stop", [3, 7])
def test_an_interrupted_run_goes_on_to_the_same_student(stop, make_checkpoint, tmp_path, text, monkeypatch):
    """Stopped while the student learns, and while the baseline does."""
    base, seen = make_checkpoint(config={"hidden_dropout_prob": 0.1}), []

    class Stop(StopAt):
        def on_step_end(self, args, state, control, **_):
            seen.append(state.global_step)
            if len(seen) == stop:
                raise KeyboardInterrupt

    whole = learn(base, tmp_path / "whole", text, baseline=True)
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda *a, **k: train(*a, **k, callbacks=[Stop(0)]))
    with pytest.raises(KeyboardInterrupt):
        learn(base, tmp_path / "out", text, baseline=True)
    monkeypatch.setattr(loop, "train", train)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"losses\.temperature: was 2\.0; is 3\.0"):
        learn(base, tmp_path / "out", text, weights=Weights(temperature=3.0), baseline=True)
    resumed = learn(base, tmp_path / "out", text, baseline=True)
    assert resumed.student.scores == whole.student.scores
    assert resumed.baseline.scores == whole.baseline.scores
    expected = tensors(tmp_path / "whole")
    assert all(np.array_equal(array, expected[name]) for name, array in tensors(tmp_path / "out").items())


@pytest.mark.parametrize(
    ("variant", "write", "name"),
    [("bert-tagger", write_tags, "train.txt"), ("bert-classifier", write_labels, "train.jsonl")],
)
def test_labelled_data_teaches_a_student(variant, write, name, make_checkpoint, tmp_path):
    labels = {"0": "差", "1": "好"} if variant == "bert-classifier" else {"0": "O", "1": "B-人", "2": "I-人"}
    base, data = make_checkpoint(variant, config={"id2label": labels}), write(tmp_path / name)
    outcome = distill(base, (0, 2), tmp_path / "out", QUICK, ALL, from_labels(data, data, {}), baseline=True)
    assert outcome.student.scores.keys() == outcome.teacher.scores.keys() == outcome.baseline.scores.keys()
    with Checkpoint.open(tmp_path / "out") as student:
        assert list(student.spec.head.labels) == list(labels.values())


# --- texts without labels


@pytest.mark.parametrize(
    ("labels", "logits", "problem_type", "expected"),
    [
        ([[IGNORED, 1, ASKED], [ASKED, 0, IGNORED]], "tokens", None, [[IGNORED, 1, 2], [2, 0, IGNORED]]),
        ([0, ASKED], [[0, 1.0], [0, 1.0]], SINGLE_LABEL, [0, 1]),
        ([[1.0, 0.0], [NAN, NAN]], [[-1, 1.0], [-1, 1.0]], MULTI_LABEL, [[1, 0], [0, 1]]),
        ([[4.0], [NAN]], [[1.5], [2.5]], REGRESSION, [[4.0], [2.5]]),
    ],
)
def test_the_teacher_gives_the_labels_that_are_missing(labels, logits, problem_type, expected):
    given = torch.tensor([0.0, 0.1, 0.9]).expand(2, 3, 3) if logits == "tokens" else torch.tensor(logits)
    assert answer(torch.tensor(labels), given, problem_type).tolist() == expected


@pytest.fixture
def more(tmp_path):
    path = tmp_path / "more.txt"
    path.write_text("\n\n".join(TEXT.split()), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("variant", "write", "file", "labels"),
    [
        ("bert-tagger", write_tags, "train.txt", {"0": "O", "1": "B-人", "2": "I-人"}),
        ("bert-classifier", write_labels, "train.jsonl", {"0": "差", "1": "好"}),
    ],
)
def test_a_student_alone_sees_labelled_rows_only(variant, write, file, labels, make_checkpoint, tmp_path, more):
    """Nor does it take more or fewer steps, where epochs are counted."""
    base, data = make_checkpoint(variant, config={"id2label": labels}), write(tmp_path / file)
    settings = Settings(epochs=1, batch_size=4, learning_rate=1e-3, device="cpu", threads=1)
    found = {}
    for name, unlabelled in (("with", (more,)), ("without", ())):
        lesson = from_labels(data, data, {}, unlabelled=unlabelled)
        found[name] = distill(base, 2, tmp_path / name, settings, ALL, lesson, baseline=True)
        record = json.loads((tmp_path / name / RECORD).read_text(encoding="utf-8"))
        counts = [sum("loss" in entry for entry in record[log]) for log in ("log", "baseline_log")]
        assert counts[0] == counts[1] == found[name].history.steps
        settings = replace(settings, max_steps=counts[0], evaluate_every=counts[0])
    assert found["with"].baseline.scores == found["without"].baseline.scores
    assert found["with"].student.scores != found["without"].student.scores


def test_every_faulty_file_is_told_of(make_checkpoint, tmp_path):
    base = make_checkpoint("bert-classifier", config={"id2label": {"0": "差", "1": "好"}})
    data, empty = write_labels(tmp_path / "train.jsonl"), tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    lesson = from_labels(data, None, {}, unlabelled=(empty, tmp_path / "none.txt"))
    with pytest.raises(InputError) as error:
        distill(base, 2, tmp_path / "out", QUICK, ALL, lesson)
    assert error.value.faults == [f"{empty}: has no text", f"{tmp_path / 'none.txt'}: no such file"]


def test_another_column_is_another_lesson(make_checkpoint, tmp_path):
    """The same file with other columns is other data: an interrupted run must not go on with it."""
    rows = [{"text": "好", "other": "坏", "label": "好", "label2": "差"}]
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    base = make_checkpoint("bert-classifier", config={"id2label": {"0": "差", "1": "好"}})
    with Checkpoint.open(base) as teacher:
        choices = ({}, {"column": "text"}, {"column": "other"}, {"label_column": "label2"})
        told = [json.dumps(from_labels(data, None, columns)(teacher, QUICK).identity) for columns in choices]
    assert told[0] == told[1]
    assert len(set(told)) == 3


@pytest.mark.parametrize("layers", [3, 10**20])
def test_too_many_layers_are_refused_before_the_text_is_read(layers, make_checkpoint, tmp_path):
    with pytest.raises(InputError, match=f"1 … 2 of the teacher's 3 layers; found {layers}"):
        learn(make_checkpoint(), tmp_path / "out", tmp_path / "none.txt", layers=layers)


def test_labels_that_the_teacher_does_not_know(make_checkpoint, tmp_path):
    data = write_tags(tmp_path / "train.txt")
    base = make_checkpoint("bert-tagger", config={"id2label": {"0": "O", "1": "B-地", "2": "I-地"}})
    with pytest.raises(InputError, match="B-人"):
        distill(base, 2, tmp_path / "out", QUICK, ALL, from_labels(data, None, {}))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_teachers_of_another_kind_are_refused(make_checkpoint, tmp_path, text):
    data = write_tags(tmp_path / "train.txt")
    with pytest.raises(InputError, match="expected a masked-LM head for plain text; found token-classification"):
        learn(make_checkpoint("bert-tagger"), tmp_path / "out", text)
    with pytest.raises(InputError, match="expected a teacher of text-classification or token-classification"):
        distill(make_checkpoint("bert"), 2, tmp_path / "out", QUICK, ALL, from_labels(data, None, {}))


@pytest.mark.parametrize("family", ["qwen3", "interbert"])
def test_a_family_that_is_not_trained_is_refused_as_such(family, make_checkpoint, tmp_path, text):
    with pytest.raises(InputError, match=f"training is not supported for {family}"):
        learn(make_checkpoint(family), tmp_path / "out", text)
    assert not (tmp_path / "out.partial").exists()


def test_a_teacher_is_not_replaced(make_checkpoint, tmp_path, text):
    learn(make_checkpoint(), tmp_path / "out", text)
    before = tensors(tmp_path / "out")
    with pytest.raises(InputError, match="is the teacher itself"):
        learn(tmp_path / "out", tmp_path / "out", text, layers=1)
    assert tensors(tmp_path / "out").keys() == before.keys()


@pytest.mark.parametrize("variant", ["bert-splade", "albert-dense"])
def test_a_student_pools_as_its_teacher(variant, make_checkpoint, tmp_path, text, capsys):
    """modules.json, the pooling, Dense modules and prompts go along, and the command says that nothing taught them."""
    base, out = make_checkpoint(variant), tmp_path / "out"
    (base / PROMPTS).write_text('{"prompts": {"query": "问："}}', encoding="utf-8")
    arguments = ["--text", str(text), "--segmenter", "spaces", "--max-length", "24", "--max-steps", "1"]
    arguments += ["--device", "cpu", "--threads", "1", "--out", str(out)]
    assert main(["distill", str(base), "--layers", "2", *arguments]) == 0
    with Checkpoint.open(base) as teacher, Checkpoint.open(out) as student:
        assert student.sentence == teacher.sentence
        assert student.spec.pooling == teacher.spec.pooling
        dense = [parameter.name for parameter in parameters_of(teacher.spec.pooling)]
        assert all(np.array_equal(student.array(name), teacher.array(name)) for name in dense)
        said = f"keeps its teacher's pooling, {teacher.spec.pooling}; its vectors were neither taught nor scored"
    assert said in capsys.readouterr().out


# --- the command


def test_the_student_is_exported_and_passes(make_checkpoint, tmp_path, text, capsys):
    arguments = ["--text", str(text), "--eval-text", str(text), "--segmenter", "spaces", "--max-length", "24"]
    arguments += ["--max-steps", "3", "--evaluate-every", "2", "--device", "cpu", "--threads", "1", "--baseline"]
    out = str(tmp_path / "out")
    assert main(["distill", str(make_checkpoint()), "--layers", "0,2", "--out", out, *arguments]) == 0
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()[1:4]] == ["teacher", "student", "student,"]
    assert "times as fast as its teacher" in said.out
    assert f"yizhi export {out}" in said.err
    assert main(["export", out, "--out", str(tmp_path / "release"), "--target", "onnx"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--layers", "2"], "expected either --text or --train"),
        (["--layers", "2", "--text", "a", "--train", "b"], "expected either --text or --train"),
        (["--layers", "2", "--text", "a", "--eval", "b"], "--eval: needs --train"),
        (["--layers", "2", "--train", "a", "--masking", "bert"], "--masking: needs --text"),
        (["--layers", "2", "--text", "a", "--unlabelled", "b"], "--unlabelled: needs --train"),
        (["--layers", "2", "--text", "a", "--temperature", "0"], "--temperature: expected more than 0"),
        (["--layers", "2", "--text", "a", "--hidden", "-1", "--warmup", "7"], "warmup: expected 0 or more, less than"),
    ],
)
def test_options_that_do_not_go_together(arguments, says, tmp_path, capsys):
    assert main(["distill", str(tmp_path), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("layers", ["0", "-1", "a", "1,,2", ""])
def test_layers_that_are_no_numbers(layers, capsys):
    with pytest.raises(SystemExit):
        main(["distill", "x", "--layers", layers, "--text", "a", "--out", "b"])
    assert "--layers" in capsys.readouterr().err


def test_the_help_says_the_defaults_of_the_library(capsys, monkeypatch):
    monkeypatch.setattr(Weights, "hidden", 7.5)
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    assert "--hidden W" in (said := capsys.readouterr().out)
    assert "(default: 7.5)" in " ".join(said.split())
