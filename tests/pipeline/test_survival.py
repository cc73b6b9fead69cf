"""What an export does when the machine fails it: killed, full disk, no memory, another export, a read-only disk."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.release.manifest import MANIFEST, read_manifest

pytestmark = pytest.mark.slow

# Both start fast.
TARGETS = ("--target", "onnx", "--target", "onnx-int8")
KILLS = 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_variant(tmp_path_factory.mktemp("survival") / "checkpoint", "bert")


@pytest.fixture(scope="module")
def finished_release(checkpoint) -> Path:
    release = checkpoint.parent / "release"
    assert export(checkpoint, release) == 0
    return release


@pytest.fixture
def release(finished_release, tmp_path) -> Path:
    return Path(shutil.copytree(finished_release, tmp_path / "release"))


def export(checkpoint: Path, release: Path) -> int:
    return main(["export", str(checkpoint), "--out", str(release), *TARGETS])


def start_export(checkpoint: Path, release: Path) -> int:
    """Export in a forked process group of its own: the moments of a fresh interpreter's imports are not worth kills."""
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # both sides set it: whoever comes first
            os.setpgid(child, child)
        return child
    os.setpgid(0, 0)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os._exit(export(checkpoint, release))


def is_done_within(child: int, seconds: float) -> bool:
    """Whether it ended by itself in that time; it must have succeeded."""
    deadline = time.monotonic() + seconds
    while (rest := deadline - time.monotonic()) > 0:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        time.sleep(min(rest, 0.005))
    return False


def wait_until_gone(group: int) -> None:
    """Until no process of this group writes any more."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.005)
    pytest.fail("a job outlived the export that started it")


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_kills_at_random_moments_leave_nothing_half_made_that_is_accepted(checkpoint, tmp_path):
    """Odd kills take the whole group, even ones the parent alone: its jobs must die with it.

    They fall into every thirtieth of the time that an export takes.
    """
    chance = random.Random(20_211)
    begin = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(start_export(checkpoint, tmp_path / "timed"), 0)[1]) == 0
    longest = time.monotonic() - begin
    release, kills = tmp_path / "release", 0
    for number in itertools.count():
        if kills == KILLS:
            break
        child = start_export(checkpoint, release)
        if is_done_within(child, longest * (number % KILLS + chance.random()) / KILLS):
            # It went on from what an earlier kill had left, and little was left to do.
            shutil.rmtree(release)
            continue
        (os.killpg if kills % 2 else os.kill)(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wait_until_gone(child)
        kills += 1
        if (release / MANIFEST).exists():
            assert main(["verify", str(release)]) == 0
        elif release.exists():
            with pytest.raises(InputError, match="not a finished release"):
                read_manifest(release)
        # Every other time go on from what the kill left, else begin anew.
        if (release / MANIFEST).exists() or chance.random() < 0.5:
            shutil.rmtree(release, ignore_errors=True)
    assert export(checkpoint, release) == 0
    assert main(["verify", str(release)]) == 0
    assert {path.name for path in release.iterdir()} == {path.name for path in (tmp_path / "timed").iterdir()}


# --- full disk ------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A tmpfs of this size; skips where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount command here")
def test_full_disk_is_seen_before_anything_is_written(checkpoint, tmp_path, capsys):
    with small_disk(tmp_path / "disk", 64) as disk:
        assert export(checkpoint, disk / "release") == 2
        assert list(disk.iterdir()) == []
    assert "no space: needs about" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount command here")
@pytest.mark.parametrize("kilobytes", [64, 160, 320, 480, 640])
def test_disk_that_fills_up_on_the_way(checkpoint, tmp_path, capsys, monkeypatch, kilobytes):
    """Each size fails at another file; the estimate is made to hope, as on a disk that others fill too."""
    monkeypatch.setattr("yizhi.pipeline.export.check_space", lambda release, plan, parameters: None)
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        code = export(checkpoint, disk / "release")
        assert code == 2
        assert not (disk / "release" / MANIFEST).exists()
        assert [path.name for path in disk.rglob("*") if "partial" in path.name] == []
    printed = capsys.readouterr()
    assert "No space left on device" in printed.out + printed.err


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fate", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed (signal 9): most likely out of memory"),
        ("resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(1 << 31)", "out of memory"),
    ],
)
def test_no_memory_for_one_target_fails_that_target_alone(checkpoint, tmp_path, capsys, monkeypatch, fate, says):
    """The job meets its fate when it imports the int8 converter."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, resource, signal, sys\n"
        "class Fate:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'yizhi.converters.to_onnx_int8':\n"
        f"            {fate}\n"
        "sys.meta_path.insert(0, Fate())\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    assert export(checkpoint, tmp_path / "release") == 1
    printed = capsys.readouterr().out
    assert says in printed
    assert "1 of 2 passed" in printed
    assert not (tmp_path / "release" / MANIFEST).exists()


# --- company --------------------------------------------------------------------------------------


def test_of_two_exports_into_one_folder_one_refuses(checkpoint, tmp_path):
    release = tmp_path / "release"
    command = [sys.executable, "-m", "yizhi", "export", str(checkpoint), "--out", str(release), *TARGETS]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    assert any("another export into this folder is running" in error for error in errors)
    assert main(["verify", str(release)]) == 0


# --- damage ---------------------------------------------------------------------------------------


def test_one_flipped_byte_in_any_file_is_found_and_named(release, capsys):
    files = sorted(path for path in release.rglob("*") if path.is_file() and "report" not in path.parts)
    assert {"manifest.json", "artifact.json", "cases.json", "model.onnx.data"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for position in (0, len(content) // 2, len(content) - 1):
            damaged = bytearray(content)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            part = path.relative_to(release).parts[0]
            code = main(["verify", str(release), "--target", part if part == "onnx-int8" else "onnx"])
            printed = capsys.readouterr()
            assert code in (1, 2), f"{path} at {position}"
            assert path.name in printed.out + printed.err, f"{path} at {position}"
        path.write_bytes(content)
    assert main(["verify", str(release)]) == 0


def test_read_only_release_is_verified(release, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, 8192):
        shutil.copytree(release, disk / "release")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (disk / "release" / "x").touch()
        assert main(["verify", str(disk / "release")]) == 0
