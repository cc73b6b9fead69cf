"""Artifacts are written whole or not at all, and every later change to one is found."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from tests.checkpoints import write_json
from yizhi.errors import InputError
from yizhi.release.artifact import DESCRIPTION, Artifact, ArtifactWriter
from yizhi.storage.folders import new_folder, remove_leftovers
from yizhi.storage.json_files import to_json

FIELDS = {
    "target": "onnx",
    "precision": "fp32",
    "task": "features",
    "inputs": {"input_ids": ["batch", "length"]},
    "outputs": {"last_hidden_state": ["batch", "length", 32]},
    "signatures": {"serving_default": ["last_hidden_state"]},
    "source": {"config.json": "0" * 64},
    "made_with": {"yizhi": "0.1.0", "converters": "0" * 64},
}


def write_artifact(folder: Path, content: bytes = b"weights") -> Artifact:
    with new_folder(folder, replaces=(DESCRIPTION,)) as temporary:
        writer = ArtifactWriter(temporary)
        with writer.open("model.onnx") as file:
            file.write(content[:3])
            file.write(memoryview(content)[3:])
        writer.write("vocab.txt", "的\n")
        (temporary / "variables").mkdir()
        (temporary / "variables" / "data").write_bytes(b"written by a framework")
        writer.describe(FIELDS)
    return Artifact.read(folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_artifact_describes_its_files(tmp_path):
    artifact = write_artifact(tmp_path / "onnx")
    assert (artifact.target, artifact.signatures) == ("onnx", FIELDS["signatures"])
    contents = {"model.onnx": b"weights", "vocab.txt": "的\n".encode(), "variables/data": b"written by a framework"}
    assert artifact.description["files"] == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in contents.items()
    }
    assert artifact.size() == sum(map(len, contents.values()))
    assert artifact.find_altered_files() == []
    assert names(tmp_path) == ["onnx"]


def test_equal_artifacts_are_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_artifact(tmp_path / name)
    assert (tmp_path / "one" / DESCRIPTION).read_bytes() == (tmp_path / "two" / DESCRIPTION).read_bytes()
    assert to_json({"b": 1, "a": "的"}) == '{\n  "a": "的",\n  "b": 1\n}\n'


# --- finding alterations -------------------------------------------------------------------------


def flip_a_byte(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"weighty")


def shorten(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"weight")


def link_a_file(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")


def break_a_link(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("nowhere")


def link_a_folder(folder: Path) -> None:
    (folder / "variables").rename(folder.parent / "elsewhere")
    (folder / "variables").symlink_to(folder.parent / "elsewhere")


def put_a_pipe(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def link_the_description(folder: Path) -> None:
    (folder / DESCRIPTION).rename(folder.parent / "elsewhere")
    (folder / DESCRIPTION).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("alter", "faults"),
    [
        (flip_a_byte, ["model.onnx: expected sha256 "]),
        (shorten, ["model.onnx: expected 7 bytes; found 6"]),
        (lambda folder: (folder / "model.onnx").unlink(), ["model.onnx: missing"]),
        (lambda folder: (folder / "extra").touch(), ["extra: not listed"]),
        (lambda folder: (folder / "extra").symlink_to("vocab.txt"), ["extra: not listed"]),
        (lambda folder: (folder / "extra").symlink_to(folder.parent), ["extra: not listed"]),
        (link_a_file, ["model.onnx: is a symbolic link"]),
        (break_a_link, ["model.onnx: is a symbolic link"]),
        (link_a_folder, ["variables/data: missing", "variables: not listed"]),
        (put_a_pipe, ["model.onnx: is not a file"]),
        (link_the_description, ["artifact.json: is a symbolic link"]),
    ],
)
def test_every_alteration_is_named(tmp_path, alter, faults):
    artifact = write_artifact(tmp_path / "onnx")
    alter(artifact.folder)
    found = artifact.find_altered_files()
    assert len(found) == len(faults)
    assert all(fault.startswith(expected) for fault, expected in zip(found, faults, strict=True))


def test_several_alterations_are_all_named(tmp_path):
    artifact = write_artifact(tmp_path / "onnx")
    flip_a_byte(artifact.folder)
    (artifact.folder / "vocab.txt").unlink()
    (artifact.folder / "variables" / "extra").touch()
    assert [fault.split(":")[0] for fault in artifact.find_altered_files()] == [
        "vocab.txt",
        "variables/extra",
        "model.onnx",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 2}, "schema_version: expected 1; found 2"),
        ({"target": 3}, "target: expected string; found 3"),
        ({"files": []}, "files: expected object"),
        ({"files": {"x": {"size": 1}}}, "files: x: sha256: missing"),
        ({"files": {"x": {"size": -1, "sha256": "0" * 64}}}, "files: x: size: expected at least 0"),
        ({"files": {"../x": {"size": 1, "sha256": "0" * 64}}}, "files: a name: expected the form"),
        ({"files": {"x": None}}, "files: x: expected"),
        ({"signatures": {"serving_default": "logits"}}, "signatures: serving_default: expected array"),
        ({"signatures": {"serving_default": [1]}}, "signatures: serving_default[0]: expected string"),
    ],
)
def test_descriptions_that_lie(tmp_path, change, says):
    artifact = write_artifact(tmp_path / "onnx")
    write_json(artifact.folder / DESCRIPTION, {**artifact.description, **change})
    with pytest.raises(InputError) as caught:
        Artifact.read(artifact.folder)
    (fault,) = caught.value.faults
    assert fault.startswith(says)


def test_a_folder_without_a_description_is_no_artifact(tmp_path):
    with pytest.raises(InputError, match="is no artifact"):
        Artifact.read(tmp_path)


# --- writing whole or not at all -----------------------------------------------------------------


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("a bug"), Interrupted(), KeyboardInterrupt()])
def test_an_error_inside_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), new_folder(tmp_path / "onnx", replaces=(DESCRIPTION,)) as temporary:  # noqa: PT012
        (temporary / "half").touch()
        raise error
    assert names(tmp_path) == []


def test_an_error_inside_keeps_the_old_folder(tmp_path):
    old = write_artifact(tmp_path / "onnx")
    with pytest.raises(ValueError, match="a bug"), new_folder(old.folder, replaces=(DESCRIPTION,)):
        raise ValueError("a bug")
    assert old.find_altered_files() == []
    assert names(tmp_path) == ["onnx"]


def test_the_old_folder_stays_until_the_new_one_is_whole(tmp_path):
    old = write_artifact(tmp_path / "onnx")
    with new_folder(old.folder, replaces=(DESCRIPTION,)) as temporary:
        assert old.find_altered_files() == []
        ArtifactWriter(temporary).describe(FIELDS)
    assert Artifact.read(old.folder).description["files"] == {}
    assert names(tmp_path) == ["onnx"]


def test_the_old_folder_returns_when_the_new_one_cannot_take_its_place(tmp_path):
    old = write_artifact(tmp_path / "onnx")
    with pytest.raises(FileNotFoundError), new_folder(old.folder, replaces=(DESCRIPTION,)) as temporary:
        temporary.rename(tmp_path / "stolen")
    assert old.find_altered_files() == []


def test_a_full_disk_is_said_plainly(tmp_path):
    with (
        pytest.raises(InputError, match="cannot be written: No space left"),
        new_folder(tmp_path / "onnx", replaces=(DESCRIPTION,)),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_a_parent_that_cannot_hold_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="onnx:\n  - cannot be written: "),
        new_folder(tmp_path / "file" / "onnx", replaces=(DESCRIPTION,)),
    ):
        pass


def test_somebody_elses_folder_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    with (
        pytest.raises(InputError, match="not ours to replace"),
        new_folder(tmp_path / "thesis", replaces=(DESCRIPTION,)),
    ):
        pass
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for name in ("file", "link"):
        with (
            pytest.raises(InputError, match="expected a folder, or nothing yet"),
            new_folder(tmp_path / name, replaces=(DESCRIPTION,)),
        ):
            pass
    assert names(tmp_path / "thesis") == ["chapter"]
    assert names(tmp_path) == ["file", "link", "thesis"]


def test_an_empty_folder_and_a_named_kind_may_be_replaced(tmp_path):
    (tmp_path / "onnx").mkdir()
    write_artifact(tmp_path / "onnx")
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "cases.json").touch()
    with new_folder(tmp_path / "golden", replaces=("cases.json",)) as temporary:
        (temporary / "new").touch()
    assert names(tmp_path / "golden") == ["new"]


def export_slowly(folder: Path, started) -> None:
    with new_folder(folder, replaces=(DESCRIPTION,)) as temporary:
        (temporary / "half").touch()
        started.set()
        time.sleep(60)


def test_leftovers_of_killed_exports_are_removed_and_those_of_running_ones_kept(tmp_path):
    write_artifact(tmp_path / "onnx")
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=export_slowly, args=(tmp_path / "onnx", started))
    process.start()
    assert started.wait(20)
    leftover = f".onnx.{process.pid}.partial"
    remove_leftovers(tmp_path / "onnx")
    assert names(tmp_path) == [leftover, "onnx"]

    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert names(tmp_path) == [leftover, "onnx"]
    assert Artifact.read(tmp_path / "onnx").find_altered_files() == []
    (tmp_path / ".onnx.1.old.partial").mkdir()
    write_artifact(tmp_path / "onnx", b"newer weights")
    assert names(tmp_path) == ["onnx"]
    assert Artifact.read(tmp_path / "onnx").find_altered_files() == []


def test_leftovers_of_other_names_are_not_touched(tmp_path):
    others = [
        ".onnx.v2.77.partial",
        ".onnx.77.partial.txt",
        ".xonnx.77.partial",
        ".onnx-int8.77.partial",
        ".bert[1].7.x",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".onnx.78.partial").touch()  # a file: not made by us
    (tmp_path / ".bert[1].7.partial").mkdir()
    remove_leftovers(tmp_path / "onnx")
    remove_leftovers(tmp_path / "bert[1]")
    assert names(tmp_path) == sorted([*others, ".onnx.78.partial"])
    remove_leftovers(tmp_path / "no folder" / "onnx")


# --- the writer ----------------------------------------------------------------------------------


def test_a_file_is_written_once(tmp_path):
    writer = ArtifactWriter(tmp_path)
    writer.write("a", b"1")
    with pytest.raises(FileExistsError):
        writer.write("a", b"2")


def test_only_finished_files_are_trusted(tmp_path):
    """A digest counts only if its file was closed; a half-written one is hashed as it lies on the disk."""
    writer = ArtifactWriter(tmp_path)
    with pytest.raises(ValueError, match="stop"), writer.open("a") as file:  # noqa: PT012
        file.write(b"12")
        raise ValueError("stop")
    description = writer.describe(FIELDS)
    assert description["files"]["a"] == {"sha256": hashlib.sha256(b"12").hexdigest(), "size": 2}
    assert json.loads((tmp_path / DESCRIPTION).read_text()) == description
