"""`yizhi diff`: what changed is named, what did not is not, and the two answers a person needs are right."""

import json

import pytest

from tests.checkpoints import write_json
from tests.kills import run_killed
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.parity.diff import SAME_VECTORS, compare_sides, describe_side, measure_answers
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime

WORDS = "bert.embeddings.word_embeddings.weight"


def diff(before, after, texts=()):
    one, other = describe_side(before), describe_side(after)
    return compare_sides(one, other, measure_answers(one, other, texts))


def export(checkpoint, out, *options):
    assert main(["export", str(checkpoint), "--out", str(out), *options]) == 0
    return out


def label_map(labels):
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def swap_rows(tensors):
    tensors[WORDS][[40, 41]] = tensors[WORDS][[41, 40]]


def test_the_same_checkpoint_and_its_releases(make_checkpoint, tmp_path, capsys):
    folder = make_checkpoint()
    one = export(folder, tmp_path / "one", "--target", "onnx", "--target", "pytorch")
    other = export(folder, tmp_path / "two", "--target", "pytorch")
    capsys.readouterr()
    for before, after, ran in ((folder, one, ("oracle", "onnx")), (one, folder, ("onnx", "oracle"))):
        found = diff(before, after)
        assert (found.same, found.reindex, found.labels, found.moved.ran) == (True, (), (), ran)
        assert found.moved.same_best == 1
        assert found.moved.cosine_least == pytest.approx(1, abs=1e-6)
        assert main(["diff", str(before), str(after)]) == 0
    # The target that both have is asked, not the first of each.
    found = diff(one, other)
    assert (found.moved.ran, [change.what for change in found.settings]) == (("pytorch", "pytorch"), ["targets"])
    said = capsys.readouterr().out
    assert "no change can affect an answer" in said
    assert "60 of 60 are the same in every bit" in said


def test_tensors_that_changed_are_named(make_checkpoint, tmp_path):
    before = make_checkpoint("bert-no-head")
    after = make_checkpoint("bert-no-head", name="after", alter=swap_rows)
    found = diff(before, after)
    assert (found.changed, found.added, found.removed) == ((WORDS,), (), ())
    assert not found.ids
    bare = make_checkpoint("bert-no-pooler", name="bare")
    found = diff(make_checkpoint("bert"), bare)
    assert found.removed == ("bert.pooler.dense.weight", "bert.pooler.dense.bias")


def test_vectors_that_moved_ask_for_a_new_index(make_checkpoint):
    before = make_checkpoint("bert-no-head")
    found = diff(before, make_checkpoint("bert-no-head", name="after", seed=1))
    assert found.moved.cosine_least < SAME_VECTORS
    assert "a text's vectors have a cosine of" in found.reindex[0]
    wider = make_checkpoint("bert-no-head", name="wider", config={"hidden_size": 64, "intermediate_size": 64})
    found = diff(before, wider)
    assert (found.reindex, found.moved.cosine_mean) == (("the vectors have another width",), None)


def test_without_answers_changed_tensors_ask_for_it(make_checkpoint):
    sides = [describe_side(make_checkpoint("bert-no-head", name=name, seed=seed)) for seed, name in enumerate("ab")]
    assert compare_sides(*sides, None).reindex == ("the model changed, and no answers were compared",)
    assert compare_sides(sides[0], sides[0], None).reindex == ()


def test_a_tokenizer_that_changed(make_checkpoint):
    before = make_checkpoint()
    after = make_checkpoint(name="after", tokenizer_config={"do_lower_case": False})
    found = diff(before, after)
    assert set(found.files) == {"tokenizer.json", "tokenizer_config.json"}
    assert 0 < len(found.ids) < found.texts
    assert found.reindex[0].startswith(f"the tokenizers give other ids to {len(found.ids)} of the texts")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["好", "差", "中"], ()),
        (["差", "好", "中"], ("the same labels in another order: 好, 差, 中 before; 差, 好, 中 after",)),
        (["好", "差", "新"], ("gone: 中", "new: 新")),
    ],
)
def test_labels(make_checkpoint, labels, says):
    def named(name, chosen):
        return make_checkpoint("bert-classifier", name=name, config=label_map(chosen))

    found = diff(named("before", ["好", "差", "中"]), named("after", labels))
    assert found.labels == says


def test_another_task(make_checkpoint):
    found = diff(make_checkpoint("bert"), make_checkpoint("bert-classifier"))
    assert found.labels[0] == "task: fill-mask before; text-classification after"
    assert found.moved.same_best is None
    assert found.moved.cosine_mean is not None


@pytest.mark.parametrize("variant", ["bert", "bert-classifier", "bert-tagger", "bert-reader"])
def test_answers_of_every_task(make_checkpoint, variant):
    before, after = make_checkpoint(variant), make_checkpoint(variant, name="after", seed=3)
    same, other = diff(before, before).moved, diff(before, after).moved
    assert same.same_best == 1
    assert same.places > 0
    assert not same.examples
    assert other.places == same.places
    assert (other.same_best < 1) == bool(other.examples)


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"num_attention_heads": 8}, {"layer_norm_eps": 0.1}])
def test_a_configuration_that_changes_the_arithmetic(make_checkpoint, capsys, change):
    before, after = make_checkpoint(), make_checkpoint(name="after")
    config = json.loads((after / "config.json").read_text())
    follow = ["num_key_value_heads", "head_size"] if "num_attention_heads" in change else []
    write_json(after / "config.json", {**config, **change})
    found = diff(before, after)
    assert [one.what for one in found.settings] == [*change, *follow]
    assert not found.same
    bare = compare_sides(describe_side(before), describe_side(after), None)
    assert bare.reindex == ("the model changed, and no answers were compared",)
    assert main(["diff", str(before), str(after), "--no-answers"]) == 1


def test_options_of_int8_that_differ(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    one = export(folder, tmp_path / "one", "--target", "onnx-int8")
    other = export(folder, tmp_path / "two", "--target", "onnx-int8", "--keep-fp32", "encoder.layer.1")
    found = diff(one, other)
    assert "options of onnx-int8" in [change.what for change in found.settings]
    assert not found.same


def test_no_text_fits(make_checkpoint):
    short = make_checkpoint("bert-no-head", config={"max_position_embeddings": 4})
    found = diff(short, short)
    assert (found.moved.texts, found.reindex, found.same) == (0, (), True)
    other = make_checkpoint("bert-no-head", name="other", config={"max_position_embeddings": 4}, seed=1)
    assert "no text is short enough" in diff(short, other).reindex[0]


def test_nan_is_refused(make_checkpoint):
    def spoil(tensors):
        tensors[WORDS][3, 3] = float("nan")

    with pytest.raises(InputError, match="NaN"):
        describe_side(make_checkpoint(alter=spoil))


@pytest.mark.parametrize("page", ["./", "none/d.html"])
def test_a_page_that_cannot_be_written(make_checkpoint, tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    folder = str(make_checkpoint())
    assert main(["diff", folder, folder, "--no-answers", "--page", page]) == 2


def test_texts_without_any(make_checkpoint, tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    folder = str(make_checkpoint())
    assert main(["diff", folder, folder, "--texts", str(tmp_path / "blank.txt")]) == 2


def test_a_users_texts(make_checkpoint, tmp_path, capsys):
    folder = make_checkpoint()
    (tmp_path / "texts.txt").write_text("这个酒店的服务很[MASK]。\n北京\n", encoding="utf-8")
    assert main(["diff", str(folder), str(folder), "--texts", str(tmp_path / "texts.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["moved"]["texts"], found["moved"]["places"]) == (True, 2, 2)
    (tmp_path / "texts.txt").write_text("北京" * 100, encoding="utf-8")
    assert main(["diff", str(folder), str(folder), "--texts", str(tmp_path / "texts.txt")]) == 2
    assert "1 of 1 are too long" in capsys.readouterr().err


def test_an_altered_release_is_no_side(make_checkpoint, tmp_path):
    release = export(make_checkpoint(), tmp_path / "one", "--target", "pytorch")
    cases = json.loads((release / "golden" / "cases.json").read_text(encoding="utf-8"))
    cases["weights"][WORDS]["sha256"] = "0" * 64
    write_json(release / "golden" / "cases.json", cases)
    with pytest.raises(InputError, match=r"golden: cases\.json"):
        describe_side(release)


def test_the_digests_are_those_that_verify_compares(make_checkpoint, tmp_path):
    release = export(make_checkpoint(), tmp_path / "one", "--target", "pytorch")
    with Checkpoint.open(make_checkpoint()) as checkpoint, open_runtime(release / "pytorch") as runtime:
        assert describe_side(release).tensors == Golden.make(checkpoint).weights
        assert verify(runtime, Golden.read(release / "golden"), "fp32").passed


def test_what_is_neither(tmp_path, capsys):
    assert main(["diff", str(tmp_path / "none"), str(tmp_path)]) == 2
    assert "no such checkpoint folder" in capsys.readouterr().err


def test_the_page_says_the_verdict_first_and_escapes(make_checkpoint, tmp_path):
    before = make_checkpoint("bert-classifier")
    after = make_checkpoint("bert-classifier", name="after", config=label_map(["<b>好</b>", "差", "中"]))
    assert main(["diff", str(before), str(after), "--page", str(tmp_path / "diff.html")]) == 1
    page = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert page.index("labels compatible: no") < page.index("<h2>Tensors</h2>")
    assert "<b>好" not in page
    assert "&lt;b&gt;好" in page
    assert not any(word in page for word in ("<script", "http://", "https://"))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_kill_leaves_a_whole_page_or_none(make_checkpoint, tmp_path):
    before, after = make_checkpoint(name="before"), make_checkpoint(name="after", alter=swap_rows)
    folder = tmp_path / "pages"
    folder.mkdir()
    page, arguments = folder / "diff.html", ["diff", str(before), str(after), "--no-answers", "--page"]
    for ended in run_killed([*arguments, str(page)], 12):
        assert page.exists() or not ended
        if page.exists():
            assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
            page.unlink()
    assert main([*arguments, str(page)]) == 1
    assert [path.name for path in folder.iterdir()] == ["diff.html"]
