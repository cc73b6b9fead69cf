"""`make dist`: what the wheel and the sdist hold, that they are the same twice, and that the wheel runs alone."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
# Through the links: Path.rglob follows none.
PACKAGED = ("yizhi", "converters", "runtimes", "training")


def run(*command, **changes):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=True, cwd=ROOT, env=environment | changes
    ).stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two folders, built one after the other under other conditions."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git, and the script packs what git tracks")
    folders = []
    for name, changes in (("one", {"TZ": "UTC", "LC_ALL": "C"}), ("two", {"TZ": "Asia/Shanghai", "LC_ALL": "C.UTF-8"})):
        folders.append(tmp_path_factory.mktemp(name) / "dist")
        before = os.umask(0o022 if name == "one" else 0o077)
        try:
            run(ROOT / "deploy" / "dist.sh", sys.executable, folders[-1], SOURCE_DATE_EPOCH="1700000000", **changes)
        finally:
            os.umask(before)
    return folders


@pytest.fixture(scope="module")
def wheel(built):
    return next(built[0].glob("*.whl"))


def tracked():
    """Every file of the package that git tracks, by its place in the package."""
    names = run("git", "ls-files", *PACKAGED).splitlines()
    files = [Path(name) for name in names if not (ROOT / name).is_symlink()]
    return {str(name) if name.parts[0] == "yizhi" else f"yizhi/{name}": ROOT / name for name in files}


def test_the_same_files_give_the_same_bytes(built):
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in built)
    assert sorted(path.rpartition(".")[2] for path in one) == ["gz", "whl"]
    assert one == two


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        assert not [info.filename for info in archive.infolist() if info.external_attr >> 28 == 0o12]  # a link
    assert found == {name: path.read_bytes() for name, path in tracked().items()}


def test_the_sdist_holds_real_files_and_no_test(built):
    with tarfile.open(next(built[0].glob("*.tar.gz"))) as archive:
        members = archive.getmembers()
    assert {member.mtime for member in members} == {1_700_000_000}
    assert {(member.uid, member.gid, member.uname) for member in members} == {(0, 0, "")}
    assert all(member.isfile() or member.isdir() for member in members)
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert {name for name in names if name.startswith("yizhi/")} == set(tracked())
    outside = {name.partition("/")[0] for name in names}
    assert not outside & {"tests", "parity_tests", "benchmarks", "converters", "docs"}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= outside


def test_the_wheel_alone_says_its_version(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    version = wheel.name.split("-")[1]
    assert run(binaries / "yizhi", "--version") == f"yizhi {version}\n"
