"""A trimmed checkpoint cuts the text and answers as before; what cannot be so is refused before any writing."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.artifacts import EVERY_TARGET, export_artifact
from tests.checkpoints import TOKENIZERS, VOCAB
from tests.schemas import schema_registry
from yizhi.cli import main
from yizhi.converters.targets import MissingFramework
from yizhi.errors import CheckFailed, InputError
from yizhi.parity import oracle
from yizhi.pipeline import trimming
from yizhi.pipeline.trimmed_files import ids_of
from yizhi.pipeline.trimming import trim_vocab
from yizhi.reading import trimmed_tokenizer
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.schema import load_schema
from yizhi.runtimes import open_runtime
from yizhi.runtimes.tokenization import Tokenizer

LINES = ["我来北京，天气好！", "hello [MASK] 的酒店 cabs 酒店", "", "Hello world 12 龘", "模型语言"]
VARIANTS = (
    *("bert", "bert-untied", "bert-fp16", "bert-bf16", "bert-sharded", "bert-no-head", "bert-gamma-beta"),
    *("bert-classifier", "bert-tagger", "albert", "electra-generator", "electra-discriminator", "megatron-bert"),
    *("ernie", "nezha", "roberta", "roformer", "modernbert", "bert-seq_bn", "bert-dense", "bert-m3", "bert-splade"),
    *("roberta-own-fill-mask", "xlm-roberta-own-fill-mask", "modernbert-own-fill-mask", "xlm-roberta-own-tagger"),
)


@pytest.fixture
def write_text(tmp_path):
    def write(*lines: str, name: str = "text.txt") -> Path:
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    return write


def old_ids(folder: Path) -> np.ndarray:
    return np.array(json.loads((folder / "vocab_map.json").read_text(encoding="utf-8"))["old_ids"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_are_those_before(variant, make_checkpoint, write_text, tmp_path):
    base, out = make_checkpoint(variant), tmp_path / "out"
    report = trim_vocab(base, [write_text(*LINES)], out)
    kept = old_ids(out)
    assert report.rows[1] == len(kept) < report.rows[0]
    assert report.bytes[1] < report.bytes[0]
    assert (report.text.lines, report.text.same) == (len(LINES), len(LINES))
    with Checkpoint.open(base) as before, Checkpoint.open(out) as after:
        assert before.dtypes == after.dtypes
        texts = [line for line in LINES if line]
        inputs = [Tokenizer.of(one.text, one.config).encode(texts).inputs for one in (before, after)]
        assert np.array_equal(kept[inputs[1].input_ids], inputs[0].input_ids)
        found = [oracle.run(one, given) for one, given in zip((before, after), inputs, strict=True)]
        has_words = before.spec.task == "fill-mask"
        assert found[0].keys() == found[1].keys()
        for name, expected in found[0].items():
            if name == "term_weights" or (
                name == "logits" and has_words
            ):  # a product of another width may be summed in another order
                np.testing.assert_allclose(found[1][name], expected[..., kept], rtol=0, atol=1e-12)
            else:
                assert np.array_equal(found[1][name], expected), name


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_runtimes_answer_as_before(target, make_checkpoint, write_text, tmp_path):
    """int8 looks for outlier channels on the same sentences: ids at random would be other tokens."""
    base, out = make_checkpoint(), tmp_path / "out"
    trim_vocab(base, [write_text(*LINES)], out)
    found = []
    for folder in (base, out):
        with Checkpoint.open(folder) as checkpoint:
            tokenizer = Tokenizer.of(checkpoint.text, checkpoint.config)
            inputs = tokenizer.encode(["我来[MASK]京"]).inputs
            rows = [row.ids.tolist() for row in tokenizer.tokenize(LINES)]
            options = {"calibration": rows} if target.endswith("int8") else {}
            try:
                artifact = export_artifact(checkpoint, target, tmp_path / f"{folder.name}-{target}", **options)
            except MissingFramework as missing:
                pytest.skip(str(missing))
        with open_runtime(artifact) as runtime:
            found.append(runtime.run(inputs, ["logits", "last_hidden_state"]))
    assert np.array_equal(found[0]["last_hidden_state"], found[1]["last_hidden_state"])
    np.testing.assert_allclose(found[1]["logits"], found[0]["logits"][..., old_ids(out)], rtol=0, atol=1e-5)


def test_the_result_is_exported_and_passes(make_checkpoint, write_text, tmp_path):
    arguments = ["--text", str(write_text(*LINES)), "--out", str(tmp_path / "out")]
    assert main(["trim-vocab", str(make_checkpoint()), *arguments]) == 0
    assert main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "release"), "--target", "onnx"]) == 0


def test_the_map_is_what_its_schema_says(make_checkpoint, write_text, tmp_path):
    base = make_checkpoint()
    trim_vocab(base, [write_text(*LINES)], tmp_path / "out", min_count=2)
    told = json.loads((tmp_path / "out" / "vocab_map.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(load_schema("vocab_map.v1"), registry=schema_registry()).validate(told)
    assert (told["rows_before"], told["min_count"]) == (len(VOCAB), 2)
    assert told["old_ids"][:5] == [0, 1, 2, 3, 4]
    with Checkpoint.open(base) as before, Checkpoint.open(tmp_path / "out") as after:
        assert [before.vocab[index] for index in told["old_ids"]] == after.vocab
        assert told["checkpoint"] == before.digest()


def test_a_shorter_piece_does_not_spell_what_was_unknown(make_checkpoint, write_text, tmp_path):
    """`abcx` is [UNK], since nothing follows `abc`. Without `abc` it would be `ab` and `##cx`, which others need."""
    vocab = [*VOCAB[:5], *"abcdx", "abc", "ab", "##cx"]
    base = make_checkpoint(vocab=vocab, config={"vocab_size": len(vocab)})
    text = write_text("abcx", "ab dcx")
    assert trim_vocab(base, [text], tmp_path / "out").text.same == 2
    with Checkpoint.open(tmp_path / "out") as after:
        assert after.text.tokenizer.encode("abcx", add_special_tokens=False).tokens == ["[UNK]"]


def test_modules_may_lie_in_folders_of_folders(make_checkpoint, write_text, tmp_path):
    base = make_checkpoint("bert-dense")
    modules = json.loads((base / "modules.json").read_text(encoding="utf-8"))
    for module in modules[1:]:
        (base / "st").mkdir(exist_ok=True)
        (base / module["path"]).rename(base / "st" / module["path"])
        module["path"] = f"st/{module['path']}"
    (base / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    trim_vocab(base, [write_text(*LINES)], tmp_path / "out")
    with Checkpoint.open(base) as before, Checkpoint.open(tmp_path / "out") as after:
        assert after.spec.pooling == before.spec.pooling


def test_rare_words_are_spelled_in_characters(make_checkpoint, write_text, tmp_path):
    vocab = [*VOCAB[:5], *"wor", "##o", "##r", "##d", "word", "row", "##s"]
    base = make_checkpoint(vocab=vocab, config={"vocab_size": len(vocab)})
    report = trim_vocab(base, [write_text("word row row")], tmp_path / "out", min_count=2)
    with Checkpoint.open(tmp_path / "out") as after:
        assert after.vocab == [*VOCAB[:5], *"wor", "##o", "##r", "##d", "row"]
        assert after.text.tokenizer.encode("word", add_special_tokens=False).tokens == ["w", "##o", "##r", "##d"]
    assert (report.text.lines, report.text.same, report.text.unknown) == (1, 0, (0, 0))


def test_what_becomes_unknown_in_another_text_is_counted(make_checkpoint, write_text, tmp_path):
    other = write_text("山水月", "北京", name="other.txt")
    report = trim_vocab(make_checkpoint(), [write_text("北京山")], tmp_path / "out", check=[other])
    assert report.check is not None
    assert (report.check.lines, report.check.same, report.check.unknown) == (2, 1, (0, 2))
    assert report.check.unknown_share == (0.0, 0.4)


def test_a_line_that_would_differ_is_named_and_nothing_is_written(make_checkpoint, write_text, tmp_path, monkeypatch):
    """What was thought of keeps lines the same; should it not, the check says so."""
    vocab = [*VOCAB[:5], *"abcdx", "abc", "ab", "##cx"]
    base = make_checkpoint(vocab=vocab, config={"vocab_size": len(vocab)})
    monkeypatch.setattr(trimmed_tokenizer, "_spell", lambda word, model: iter(()))
    text = write_text("ab dcx", "abcx")
    with pytest.raises(InputError, match=r"text\.txt, line 2: would have other tokens"):
        trim_vocab(base, [text], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_row_that_is_written_wrong_is_found(make_checkpoint, write_text, tmp_path, monkeypatch):
    def write_wrong(file, header, chunks):
        right(file, header, (bytes(chunk)[::-1] for chunk in chunks))

    right = trimming.write_safetensors
    monkeypatch.setattr(trimming, "write_safetensors", write_wrong)
    with pytest.raises(CheckFailed, match="was not written as it was read"):
        trim_vocab(make_checkpoint(), [write_text(*LINES)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_would_disagree_are_left_out(make_checkpoint, write_text, tmp_path):
    base = make_checkpoint("roberta-own-fill-mask")
    TOKENIZERS["roberta"][0]().model.save(str(base))
    assert (base / "merges.txt").exists()
    report = trim_vocab(base, [write_text(*LINES)], tmp_path / "out")
    assert list(report.left_out) == ["merges.txt", "vocab.json"]
    assert not (tmp_path / "out" / "merges.txt").exists()


def test_other_files_go_along_or_are_told_of(make_checkpoint, write_text, tmp_path, capsys):
    """Ids of `generation_config.json` are the new ones, and their tokens stay; nothing else is left out unsaid."""
    base, out = make_checkpoint("bert-dense"), tmp_path / "out"
    named = {"eos_token_id": [VOCAB.index("z"), 3], "pad_token_id": 0, "max_length": 9}
    (base / "generation_config.json").write_text(json.dumps(named), encoding="utf-8")
    copied = {"chat_template.jinja": "{{ 北京 }}", "chat_template.json": "{}", "NOTICE": "n", "README.md": "r"}
    left = {"metrics.json": "{}", "model.onnx": "", "notes.txt": "", ".git": ""}
    for name, content in (copied | left).items():
        (base / name).write_text(content, encoding="utf-8")
    (base / "runs").mkdir()
    (base / "runs" / "event").touch()
    report = trim_vocab(base, [write_text("北京 hello")], out)
    new = old_ids(out).tolist().index
    told = json.loads((out / "generation_config.json").read_text(encoding="utf-8"))
    assert told == {"eos_token_id": [new(VOCAB.index("z")), 3], "pad_token_id": 0, "max_length": 9}
    assert {name: (out / name).read_text(encoding="utf-8") for name in copied} == copied
    assert list(report.left_out) == ["metrics.json", "model.onnx", "notes.txt", "runs/"]
    assert main(["trim-vocab", str(base), "--text", str(tmp_path / "text.txt"), "--out", str(out)]) == 0
    assert "metrics.json: not written: a trainer's scores" in capsys.readouterr().out
    (base / "generation_config.json").write_text('{"suppress_tokens": [5]}', encoding="utf-8")
    report = trim_vocab(base, [tmp_path / "text.txt"], tmp_path / "other")
    assert report.left_out["generation_config.json"] == "suppress_tokens: ids of the old vocabulary"
    assert not (tmp_path / "other" / "generation_config.json").exists()


@pytest.mark.parametrize("name", ["xlm-roberta", "roberta", "modernbert"])
def test_positions_are_counted_from_the_same_padding(name, make_checkpoint, write_text, tmp_path):
    base = make_checkpoint(f"{name}-own-fill-mask")
    trim_vocab(base, [write_text(*LINES)], tmp_path / "out")
    with Checkpoint.open(base) as before, Checkpoint.open(tmp_path / "out") as after:
        assert after.config.padding_idx == before.config.padding_idx
        named = [(key, before.text.vocab[value]) for key, value in ids_of(before.config.raw)]
        assert [(key, after.text.vocab[value]) for key, value in ids_of(after.config.raw)] == named


@pytest.mark.parametrize(
    ("lines", "says"),
    [([b""], "no text"), ([b"\n"], "no text"), ([b"a\n\xff\xfe\n"], "UTF-8")],
)
def test_text_that_cannot_be_used_is_refused(lines, says, make_checkpoint, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=says):
        trim_vocab(make_checkpoint(), [tmp_path / "bad.txt"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_text_without_text_is_refused(make_checkpoint, write_text, tmp_path):
    empty = write_text("", name="empty.txt")
    with pytest.raises(InputError, match="no text") as caught:
        trim_vocab(make_checkpoint(), [write_text(*LINES)], tmp_path / "out", check=[empty])
    assert "empty.txt" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_not_written_over_itself(make_checkpoint, write_text, tmp_path):
    trim_vocab(make_checkpoint(), [write_text(*LINES)], tmp_path / "out")
    with pytest.raises(InputError, match="is the checkpoint itself"):
        trim_vocab(tmp_path / "out", [write_text(*LINES)], tmp_path / "out")


def test_the_command_says_what_left(make_checkpoint, write_text, tmp_path, capsys):
    arguments = [str(make_checkpoint()), "--text", str(write_text("北京 hello")), "--out", str(tmp_path / "out")]
    assert main(["trim-vocab", *arguments, "--check", str(write_text("山", name="o.txt"))]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1].split() == ["rows", str(len(VOCAB)), "12"]
    assert "1 of 1 lines of the text have the same tokens" in said
    assert "0 of 1 lines of the other text have the same tokens; 1 are cut otherwise" in said
