"""What int8's outlier channels are found on, and what to do where 8 bits are too few."""

import numpy as np
import pytest

from tests.checkpoints import VOCAB, write_variant
from yizhi.cli import main
from yizhi.converters.int8_outliers import choose_calibration
from yizhi.errors import InputError
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.pipeline.int8_suggestion import export_int8, suggest_kept
from yizhi.pipeline.steps import Verify
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentences import CHINESE, OTHER_CHINESE, rows_of
from yizhi.release.artifact import Artifact
from yizhi.runtimes import open_runtime

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TEXT = "北京是中国的首都。\n这个酒店的服务很好。\n"


def test_everyday_sentences_serve_where_the_vocabulary_has_their_words(make_checkpoint):
    with Checkpoint.open(make_checkpoint()) as checkpoint:
        assert choose_calibration(checkpoint).describe() == {"of": "ids", "rows": 24, "tokens": 768}
        assert choose_calibration(checkpoint, [[2, 9, 3]]).describe() == {"of": "text", "rows": 1, "tokens": 3}
    vocab = [*VOCAB[:5], *sorted(set("".join((*CHINESE, *OTHER_CHINESE))))]
    with Checkpoint.open(make_checkpoint(name="zh", vocab=vocab, config={"vocab_size": len(vocab)})) as checkpoint:
        chosen = choose_calibration(checkpoint)
    assert (chosen.of, len(chosen.rows)) == ("sentences", 20)


def test_no_sentence_is_both_calibrated_on_and_judged():
    assert not set(CHINESE) & set(OTHER_CHINESE)


def test_rows_of_a_users_text(make_checkpoint):
    with Checkpoint.open(make_checkpoint()) as checkpoint:
        text = checkpoint.text
        rows, useless = rows_of(text, ["北京", " ", "ЖЖ Ю", "中国的首都" * 9, "北京"], longest=12, most=10)
        assert (useless, [len(row) for row in rows]) == (2, [4, 12, 4])
        assert all((row[0], row[-1]) == (text.cls_id, text.sep_id) for row in rows)
        assert len(rows_of(text, ["北京"] * 9, longest=12, most=3)[0]) == 3
        with pytest.raises(InputError, match="found 2 lines, 1 of them with mostly unknown words and 1 with none"):
            rows_of(text, [" ", "ЖЖ Ю"], longest=12, most=10)


@pytest.fixture
def export(tmp_path, capsys):
    folder = write_variant(tmp_path / "checkpoint", "bert")

    def run(text):
        path = tmp_path / "text.txt"
        path.write_bytes(text.encode())
        command = ["export", str(folder), "--out", str(tmp_path / "release"), "--target", "onnx-int8"]
        code = main([*command, "--calibration", str(path)])
        return code, capsys.readouterr(), tmp_path / "release"

    return run


@pytest.mark.parametrize("text", ["", "\n \n", "ЖЖ Ю\nЮЖ\n"], ids=["empty", "blank", "another language"])
def test_a_text_of_no_use_is_refused_before_anything_is_written(export, text):
    code, said, release = export(text)
    assert code == 2
    assert "text.txt:\n  - expected text in the vocabulary's language" in said.err
    assert not release.exists()


def test_a_text_is_used_and_said(export):
    code, said, release = export(f"﻿{TEXT}ЖЖ\n")
    assert code == 0
    assert "text.txt: 1 lines have no words or mostly unknown ones; 2 are used" in said.err
    artifact = Artifact.read(release / "onnx-int8").description
    assert artifact["quantization"]["calibration"]["of"] == "text"
    assert len(artifact["options"]["calibration"]) == 64
    before = (release / "onnx-int8" / "artifact.json").stat().st_mtime_ns
    assert export(f"﻿{TEXT}ЖЖ\n")[0] == 0
    assert (release / "onnx-int8" / "artifact.json").stat().st_mtime_ns == before
    assert export(TEXT)[0] == 0
    assert Artifact.read(release / "onnx-int8").description["options"] != artifact["options"]


@pytest.fixture
def loud(make_checkpoint):
    """A checkpoint of which one layer's inside has more outlier channels than are kept."""

    def alter(tensors):
        tensors["bert.encoder.layer.1.intermediate.dense.bias"][:12] = np.geomspace(200, 4000, 12)
        tensors["bert.encoder.layer.1.output.dense.weight"][:, :12] /= 1e3

    return make_checkpoint("bert", config={"hidden_size": 64, "intermediate_size": 128}, alter=alter)


def test_where_8_bits_are_too_few_the_part_to_keep_is_named(loud, tmp_path):
    with Checkpoint.open(loud) as checkpoint:
        golden = Golden.make(checkpoint)
        golden.write(tmp_path)
        folder = export_int8(checkpoint, tmp_path / "int8")
        record = Verify(folder, tmp_path, bisect=loud).run(threads=1)
        assert not record.passed
        (line,) = [fault for fault in record.faults if fault.startswith("kept in float32, these parts")]
        assert line.endswith("make it pass: bert.encoder.layer.1 (`keep_fp32` of `yizhi export`)")
        kept = export_int8(checkpoint, tmp_path / "kept", keep_fp32=["bert.encoder.layer.1"])
        with open_runtime(kept) as runtime:
            assert verify(runtime, golden, "int8").faults == []


def test_where_no_half_helps_the_costliest_are_named(loud, monkeypatch):
    monkeypatch.setattr("yizhi.pipeline.int8_suggestion._excess", lambda verdict: 2.0)
    with Checkpoint.open(loud) as checkpoint:
        said = suggest_kept(checkpoint, Golden.make(checkpoint))
    assert said.startswith("no half of its parts in float32 makes it pass; these cost most: ")
