"""The table of families: made from what was measured, and honest about what was not."""

import json

from benchmarks import families
from benchmarks.families import describe_share, main, make_table, passed, shapes
from tests.checkpoints import small_config
from tests.records import make_record
from yizhi.converters.targets import TARGETS
from yizhi.model.architectures import FAMILIES
from yizhi.model.config import EncoderConfig


def test_shapes_are_configurations_of_every_family():
    parsed = [EncoderConfig.from_dict(dict(raw), name) for name, raw in shapes().items()]
    assert {config.model_type for config in parsed} == set(FAMILIES)
    assert {"albert-large-chinese-cluecorpussmall", "chinese-electra-base-generator", "rbt3"} <= shapes().keys()


def test_what_was_not_measured_is_not_run():
    table = make_table({})
    assert table.count("| not run |") == len(shapes())
    assert "pass" not in table.split("|---")[-1]


def test_a_missing_or_failed_target_is_no_pass():
    row = {"passed": True, "faults": [], "size": 1, "parity": None}
    assert passed(dict.fromkeys(TARGETS, row))
    assert not passed({"pytorch": row})
    assert not passed({**dict.fromkeys(TARGETS, row), "onnx": {**row, "passed": False}})
    table = make_table({"rbt3": {"pytorch": row, "onnx": {**row, "passed": False, "faults": ["first layer"]}}})
    assert "**FAIL**: first layer" in table
    assert "flax | | | | not run" in table


def test_one_shape_is_measured_and_removed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "shapes", lambda: {"small": small_config(vocab_size=300)})
    monkeypatch.setattr(families, "find_targets", lambda _: [TARGETS["onnx"]])
    measured, table = tmp_path / "build" / "families.json", tmp_path / "families.md"
    measured.parent.mkdir()
    table.write_text("# Old\n\n## By hand\n\nkept\n")
    assert main(["small", "--table", str(table), "--measured", str(measured)]) == 1  # four targets were not run
    assert json.loads(measured.read_text())["small"]["onnx"]["passed"]
    assert "| onnx | " in table.read_text()
    assert "Old" not in table.read_text()
    assert table.read_text().endswith("|\n\n## By hand\n\nkept\n")
    assert not (measured.parent / "families").exists()


def test_the_share_of_the_tolerance_is_where_most_is_used():
    assert describe_share(make_record([0.2, 0.31])) == "0.31"
    assert describe_share(make_record([0.2], cosine={"logits": 0.9})) == describe_share(None) == ""
