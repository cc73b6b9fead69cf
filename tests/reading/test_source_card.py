"""What a checkpoint's README.md and LICENSE say of it; nothing is guessed, and nothing else is taken over."""

import pytest

from tests.imports import ROOT
from yizhi.cli import main
from yizhi.reading.source_card import SourceCard, read_source_card, recognise_licence
from yizhi.release.artifact import Artifact
from yizhi.release.manifest import read_manifest

APACHE = (ROOT / "LICENSE").read_text(encoding="utf-8")


def read(folder, header="", licence=None):
    (folder / "README.md").write_text(f"---\n{header}\n---\n# A model\nlicense: mit\n", encoding="utf-8")
    if licence:
        (folder / "LICENSE").write_text(licence, encoding="utf-8")
    return read_source_card(folder)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("license: apache-2.0", SourceCard("apache-2.0")),
        ("license: 'MIT'   # as upstream", SourceCard("mit")),
        ("license:\n- apache-2.0", SourceCard("apache-2.0")),
        ("license: [mit, apache-2.0]", SourceCard()),
        ("license: mit\nlicense: apache-2.0", SourceCard()),
        ("license: unknown", SourceCard()),
        ("license: mit AND more", SourceCard()),
        ("license: |\n  mit", SourceCard()),
        ('license: "mit\\nevil: yes"', SourceCard()),
        ("model-index:\n- license: mit", SourceCard()),
        ("license_name: mit", SourceCard()),
        ("language: [zh, en]\nlicense: mit", SourceCard("mit", None, ("zh", "en"))),
        ('language:\n- zh\n- "<b>"\nbase_model:\n  - hfl/rbt3', SourceCard(None, "hfl/rbt3", ("zh",))),
        ("base_model: ../../etc/passwd", SourceCard()),
        ("base_model: [hfl/rbt3, hfl/rbt4]", SourceCard()),
    ],
)
def test_a_header_is_read_or_left(tmp_path, header, expected):
    assert read(tmp_path, header) == expected


def test_no_header_says_nothing(tmp_path):
    assert read_source_card(tmp_path) == SourceCard()
    for content in (b"", b"license: mit\n", b"---\nlicense: mit\n", b"---\nlicense: \xff\n---\n"):
        (tmp_path / "README.md").write_bytes(content)
        assert read_source_card(tmp_path) == SourceCard()


def test_a_licence_is_recognised_word_for_word():
    assert recognise_licence(APACHE) == "apache-2.0"
    assert recognise_licence(APACHE.replace("\n", "\r\n")) == "apache-2.0"
    assert recognise_licence(APACHE.replace("perpetual", "temporary")) is None
    assert recognise_licence(APACHE + "\nNot for commercial use.\n") is None
    assert recognise_licence("The following holds instead.\n" + APACHE) is None
    assert recognise_licence("") is None


def test_two_sources_that_differ_are_no_licence(tmp_path):
    assert read(tmp_path, "license: apache-2.0", APACHE) == SourceCard("apache-2.0")
    assert read(tmp_path, "", APACHE).licence == "apache-2.0"
    found = read(tmp_path, "license: mit", APACHE)
    assert found.licence is None
    assert found.notes == ("README.md says license mit, and the licence file is apache-2.0: it counts as unknown",)


@pytest.mark.slow  # two exports
def test_the_licence_goes_from_the_source_to_the_manifest_and_through_an_import(make_checkpoint, tmp_path):
    checkpoint, release = make_checkpoint(), tmp_path / "release"
    export = ["--target", "pytorch", "--out"]
    assert main(["export", str(checkpoint), *export, str(release)]) == 0
    assert not {"license", "base_model", "languages"} & read_manifest(release)["source"].keys()
    assert "- Licence: unknown\n" in (release / "README.md").read_text(encoding="utf-8")
    read(checkpoint, "license: apache-2.0\nbase_model: hfl/rbt3\nlanguage: zh")
    assert main(["import", str(checkpoint), "--out", str(tmp_path / "imported")]) == 0
    assert main(["export", str(tmp_path / "imported"), *export, str(release)]) == 0
    source = read_manifest(release)["source"]
    assert (source["license"], source["base_model"], source["languages"]) == ("apache-2.0", "hfl/rbt3", ["zh"])
    # A card of ours is a source's card too.
    assert read_source_card(Artifact.read(release / "pytorch").folder) == SourceCard("apache-2.0", "hfl/rbt3", ("zh",))
