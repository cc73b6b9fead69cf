"""`yizhi models`: a misspelled name proposes the nearest."""

import pytest

from yizhi.cli import main


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bert-base-chinse", "bert-base-chinese"),
        ("HFL/rbt33", "hfl/rbt3"),
        ("google-bert/bert-base-chines", "google-bert/bert-base-chinese"),
    ],
)
def test_a_misspelled_name_proposes_the_nearest(typed, meant, capsys):
    assert main(["models", typed]) == 2
    told = capsys.readouterr().err
    assert f"{typed}:" in told.lower() or typed in told
    assert f"did you mean {meant}" in told
    assert len(told) < 250  # and not every name


def test_a_name_like_no_other_proposes_nothing(capsys):
    assert main(["models", "zzzz"]) == 2
    assert "zzzz: not in the catalogue: `yizhi models` lists what is known" in " ".join(
        capsys.readouterr().err.split()
    ).replace("zzzz: - ", "zzzz: ")
