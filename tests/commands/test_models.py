"""`yizhi models`: a word lists what contains it, a misspelled name proposes the nearest."""

import json

import pytest

from yizhi.cli import main


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bert-base-chinse", "bert-base-chinese"),
        ("HFL/rbt33", "hfl/rbt3"),
        ("google-bert/bert-base-chinesse", "google-bert/bert-base-chinese"),
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


@pytest.mark.parametrize("word", ["bce", "ernie", "STELLA"])
def test_a_word_lists_the_names_that_contain_it(word, capsys):
    assert main(["models", word, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found
    assert all(any(word.lower() in name.lower() for name in (one["name"], *one["hub"])) for one in found)
    assert main(["models", word]) == 0
    told = capsys.readouterr().out
    assert all(one["name"] in told for one in found)
    assert "bert-base-chinese" not in told


def test_a_whole_name_is_one_checkpoint_though_others_contain_it(capsys):
    assert main(["models", "bert-base-chinese", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "bert-base-chinese"
