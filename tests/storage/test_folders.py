"""Folders that are there whole or not at all: the permissions of what is in them."""

import os

import pytest

from yizhi.storage.folders import new_folder


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_permissions_of_the_umask_whoever_wrote_them(tmp_path, umask):
    with new_folder(tmp_path / "new") as folder:
        (folder / "inner").mkdir()
        (folder / "usual").write_text("")
        os.close(os.open(folder / "inner" / "private", os.O_CREAT | os.O_WRONLY, 0o600))
        os.close(os.open(folder / "program", os.O_CREAT | os.O_WRONLY, 0o700))
        (folder / "elsewhere").symlink_to(tmp_path / "nowhere")
    modes = {name: (tmp_path / "new" / name).stat().st_mode & 0o777 for name in ("usual", "inner/private", "program")}
    assert modes["inner/private"] == modes["usual"] == 0o666 & ~umask
    assert modes["program"] == 0o700 | modes["usual"]
