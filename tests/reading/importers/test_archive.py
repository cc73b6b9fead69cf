import stat
import zipfile
from pathlib import Path

import pytest

from tests.reading.importers.foreign_files import assert_same_checkpoint, make_zip
from yizhi.errors import InputError
from yizhi.reading.importers import import_checkpoint


@pytest.fixture
def release(make_checkpoint, tmp_path: Path) -> Path:
    return make_zip(tmp_path / "release.zip", make_checkpoint("bert"))


def assert_refused(tmp_path: Path, release: Path, fault: str) -> InputError:
    """Refused, and nothing is left behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=fault) as caught:
        import_checkpoint(release, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    assert caught.value.subject.startswith(str(release))
    return caught.value


@pytest.mark.parametrize("top", ["", "chinese_wwm_ext"])
def test_a_zip_may_have_one_folder(make_checkpoint, tmp_path: Path, top: str):
    expected = make_checkpoint("bert")
    release = make_zip(tmp_path / "release.zip", expected, top)
    with zipfile.ZipFile(release, "a") as archive:
        archive.writestr("__MACOSX/._vocab.txt", "Apple's")
    import_checkpoint(release, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../outside.txt", r"\.\./outside\.txt: leads out"),
        ("folder/../../outside.txt", "leads out"),
        ("/etc/outside", "leads out"),
        ("..\\outside.txt", "leads out"),
        ("C:/outside.txt", "leads out"),
    ],
)
def test_members_that_lead_out(release: Path, tmp_path: Path, name: str, fault: str):
    with zipfile.ZipFile(release, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), "x")
    assert_refused(tmp_path, release, fault)


@pytest.mark.parametrize(
    ("mode", "fault"), [(stat.S_IFLNK, "vocab2.txt: is a link"), (stat.S_IFIFO, "vocab2.txt: is not a plain file")]
)
def test_links_and_devices(release: Path, tmp_path: Path, mode: int, fault: str):
    member = zipfile.ZipInfo("vocab2.txt")
    member.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(release, "a") as archive:
        archive.writestr(member, "/etc/passwd")
    assert_refused(tmp_path, release, fault)


@pytest.mark.parametrize("name", ["config.json", "./config.json"])
def test_names_given_twice(release: Path, tmp_path: Path, name: str):
    with (
        pytest.warns(UserWarning, match="Duplicate") if name == "config.json" else zipfile.ZipFile(release),
        zipfile.ZipFile(release, "a") as archive,
    ):
        archive.writestr(name, "{}")
    assert_refused(tmp_path, release, "config.json: appears twice")


def test_a_bomb(tmp_path: Path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", bytes(1 << 22))
    assert_refused(tmp_path, path, "unpacks to 4194304 bytes, more than 100 times its own")


def test_every_fault_is_listed(release: Path, tmp_path: Path):
    with zipfile.ZipFile(release, "a") as archive:
        archive.writestr("../one", "x")
        archive.writestr("/two", "x")
    assert len(assert_refused(tmp_path, release, "one").faults) == 2


def test_a_member_larger_than_it_says_is_refused(release: Path, tmp_path: Path):
    """The directory understates config.json's size: zipfile reads no more than that, and its CRC is wrong."""
    data = bytearray(release.read_bytes())
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(b"config.json"))
    data[start + 24 : start + 28] = (5).to_bytes(4, "little")
    release.write_bytes(data)
    assert_refused(tmp_path, release, "CRC|damaged")


def test_damage(release: Path, tmp_path: Path):
    data = release.read_bytes()
    release.write_bytes(data[: len(data) // 2])
    assert_refused(tmp_path, release, "not a zip that can be read")
    altered = bytearray(data)
    altered[len(data) // 2] ^= 255  # inside the weights
    release.write_bytes(altered)
    assert_refused(tmp_path, release, "damaged")


def test_a_zip_of_folders_is_refused(make_checkpoint, tmp_path: Path):
    folder = make_checkpoint("bert")
    release = make_zip(tmp_path / "release.zip", folder, "one/two")
    assert_refused(tmp_path, release, "holds no weights")
