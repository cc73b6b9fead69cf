"""Tarballs of npm: downloaded by npm, kept, and never another file than the pinned one."""

import base64
import hashlib
import io
import tarfile

import pytest

from yizhi.errors import InputError, NotRun
from yizhi.storage.npm import NpmPackage, cache_folder, find_tarball, read_files


def make_tarball(**files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


TARBALL = make_tarball(LICENSE=b"free", code=b"1 + 1")
PACKAGE = NpmPackage("@some/thing", "1.2.3", base64.b64encode(hashlib.sha512(TARBALL).digest()).decode())


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """Puts a script in npm's place, and the cache into the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return put


def test_npm_downloads_a_tarball_once(tmp_path, fake_npm):
    (tmp_path / "served.tgz").write_bytes(TARBALL)
    fake_npm(f'echo "$@" >> {tmp_path}/asked; cp {tmp_path}/served.tgz some-thing-1.2.3.tgz')
    for _ in range(2):
        found = find_tarball(PACKAGE)
    assert found == cache_folder() / "some-thing-1.2.3.tgz"
    assert (tmp_path / "asked").read_text().split()[:2] == ["pack", "@some/thing@1.2.3"]
    assert [path.name for path in cache_folder().iterdir()] == [found.name]
    assert read_files(found, ["LICENSE", "code"]) == {"LICENSE": b"free", "code": b"1 + 1"}


@pytest.mark.parametrize("script", ["echo npm error network >&2; exit 1", "exit 7", "exit 0"])
def test_a_download_that_fails_says_what_to_do_by_hand(fake_npm, script):
    fake_npm(script)
    with pytest.raises(NotRun, match=r"https://registry.npmjs.org/@some/thing/-/thing-1.2.3.tgz and put it at .*\.tgz"):
        find_tarball(PACKAGE)
    assert list(cache_folder().iterdir()) == []


def test_what_a_killed_download_left_is_removed_by_the_next(tmp_path, fake_npm):
    (tmp_path / "served.tgz").write_bytes(TARBALL)
    left = cache_folder() / f".{PACKAGE.file}.99999999.partial"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    fake_npm(f"cp {tmp_path}/served.tgz some-thing-1.2.3.tgz")
    find_tarball(PACKAGE)
    assert [path.name for path in cache_folder().iterdir()] == [PACKAGE.file]


def test_a_cache_that_cannot_be_written_is_told(tmp_path, fake_npm, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fake_npm("exit 0")
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        find_tarball(PACKAGE)


def test_no_npm_says_what_to_do_by_hand(tmp_path, fake_npm, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotRun, match="there is no npm here: download https://"):
        find_tarball(PACKAGE)


def test_another_tarball_is_refused_wherever_it_lies(tmp_path, fake_npm):
    other = make_tarball(LICENSE=b"free", code=b"evil")
    (tmp_path / "served.tgz").write_bytes(other)
    fake_npm(f"cp {tmp_path}/served.tgz some-thing-1.2.3.tgz")
    given = tmp_path / "given"
    given.mkdir()
    (given / PACKAGE.file).write_bytes(other)
    for folder in (None, given):
        with pytest.raises(InputError, match=r"expected sha512 .*; found "):
            find_tarball(PACKAGE, folder)
    assert list(cache_folder().iterdir()) == []  # else the next download could not mend it


def test_a_folder_without_the_tarball_is_told_of(tmp_path):
    with pytest.raises(InputError, match=r"has no some-thing-1.2.3.tgz: download https://"):
        find_tarball(PACKAGE, tmp_path)


def test_a_file_that_the_tarball_lacks_is_named(tmp_path):
    (tmp_path / "x.tgz").write_bytes(TARBALL)
    with pytest.raises(InputError, match=r"nothing\.js: missing"):
        read_files(tmp_path / "x.tgz", ["code", "nothing.js"])
