"""Dataclasses to JSON and back: the same value, or every fault."""

import json
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import pytest

from tests.records import make_record
from yizhi.errors import InputError
from yizhi.model.spec import Pooling
from yizhi.parity.compare import Quality
from yizhi.parity.record import Diagnosis, Plausibility, PublishedCheck, VerificationRecord
from yizhi.parity.tolerances import TOLERANCES
from yizhi.pipeline.steps import Convert, MakeGolden, Score, Verify
from yizhi.storage.codec import LEFT_OUT, from_plain, to_plain


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(to_plain(value), allow_nan=False))


@dataclass(frozen=True)
class Everything:
    text: str
    number: int
    real: float
    choice: bool
    path: Path
    row: tuple[int, ...]
    table: dict[str, list[float]]
    inner: "Everything | None" = None
    extra: str | None = field(default=None, metadata=LEFT_OUT)


VALUE = Everything("字", 3, 0.1, True, Path("a/b"), (1, 2), {"x": [1.0, inf]})


@pytest.mark.parametrize(
    "value",
    [
        VALUE,
        Everything("", 0, inf, False, Path(), (), {}, inner=VALUE, extra="here"),
        Convert(Path("a"), "onnx", Path("b"), {"options": {"keep_fp32": ["cls"]}, "size": 1.5}),
        MakeGolden(Path("a"), Path("b"), Pooling("mean", True)),
        MakeGolden(Path("a"), Path("b")),
        Verify(Path("a"), Path("b"), "cuda", True, "rbt3", Path("c"), "tf32"),
        Score(Path("a"), Path("b"), {"column": "text"}, True),
        make_record([0.1, None, 3.0]),
        make_record(
            [0.1],
            tolerance=TOLERANCES["int8", "cpu"],
            quality=Quality(9, None, 1.0, 1e-3, 2e-3, 3e-3, 12),
            diagnosis=Diagnosis("masks", "logits", None, "a cause", "a note"),
            published=PublishedCheck("rbt3", 4, 0.5, ["a fault"]),
            head=Plausibility("absent", task="features"),
        ),
        make_record([0.1], tolerance=None),
    ],
)
def test_what_comes_back_is_what_went_out(value):
    assert from_plain(type(value), through_json(value)) == value


def test_a_record_has_the_keys_of_what_was_looked_at():
    plain = through_json(make_record([None]))
    assert not {"diagnosis", "published", "head"} & plain.keys()
    assert plain["first_bad_layer"] is None
    worst = plain["worst"]["hidden_states.0"]
    assert (worst["error"], worst["excess"], worst["passed"]) == (None, None, False)
    assert plain["tolerance"].keys() == {"absolute", "relative", "reason"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"text": 3}, "text: expected str; found 3"),
        ({"number": True}, "number: expected int; found True"),
        ({"number": 1.0}, "number: expected int; found 1.0"),
        ({"real": "1"}, "real: expected float; found '1'"),
        ({"path": 1}, "path: expected Path; found 1"),
        ({"row": [1, "2"]}, "row[1]: expected int; found '2'"),
        ({"table": {"x": 1}}, "table.x: expected list; found 1"),
        ({"inner": {"text": "x"}}, "inner.number: missing"),
        ({"other": 1}, "other: unknown"),
    ],
)
def test_what_is_of_another_form_is_refused(change, fault):
    with pytest.raises(InputError) as error:
        from_plain(Everything, {**through_json(VALUE), **change})
    assert fault in error.value.faults


def test_every_fault_is_listed():
    with pytest.raises(InputError) as error:
        from_plain(Verify, {"folder": 1, "device": None, "more": 2})
    assert error.value.subject == "Verify"
    assert len(error.value.faults) == 4


def test_a_record_of_another_version_is_refused():
    plain = through_json(make_record([0.1]))
    plain["tolerance"] = {"absolute": 1e-5, "reason": "so"}
    with pytest.raises(InputError):
        from_plain(VerificationRecord, plain)
