"""Hub ids, against the real client library and a hub on this machine's loopback."""

import builtins
import json
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import requests

from tests.checkpoints import write_variant
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.hub import ResolvedCheckpoint, resolve_checkpoint

COMMIT, OLDER = "a" * 40, "b" * 40
REAL_DOWNLOAD = huggingface_hub.snapshot_download
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": OLDER, OLDER: OLDER}


class Hub(BaseHTTPRequestHandler):
    """Enough of the hub's API for snapshot_download. `folder` holds owner/name/commit/files."""

    folder: Path
    requested: list[str]
    down = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.requested.append(self.path)
        if self.down:
            return self.answer(503, b"")
        match self.path.removeprefix("/").split("/"):
            case ["api", "models", owner, name, "revision", revision]:
                return self.describe(owner, name, revision)
            case [owner, name, "resolve", commit, *path]:
                if name == "gated":
                    return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
                content = (self.folder / owner / name / commit / Path(*path)).read_bytes()
                return self.answer(200, content, {"X-Repo-Commit": commit, "ETag": f'"{commit[:8]}-{path[-1]}"'})
        return self.answer(404, b"")

    def describe(self, owner: str, name: str, revision: str) -> None:
        repository = self.folder / owner / name
        if not repository.is_dir():
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if revision not in REVISIONS or not (repository / REVISIONS[revision]).is_dir():
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        commit = REVISIONS[revision]
        files = [path for path in (repository / commit).rglob("*") if path.is_file()]
        siblings = [{"rfilename": path.relative_to(repository / commit).as_posix()} for path in files]
        body = {"_id": "1", "id": f"{owner}/{name}", "sha": commit, "siblings": siblings}
        return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with owner/bert (two revisions), owner/pickle (no safetensors) and owner/gated."""
    folder = tmp_path / "hub"
    bert = folder / "owner" / "bert"
    write_variant(bert / COMMIT, "bert-sharded", tokenizer_config={"do_lower_case": True})
    write_variant(bert / OLDER, "bert")
    for unwanted in ("pytorch_model.bin", "notes.md", "tf_model.h5", "checkpoint-5/model.safetensors", "code.py"):
        (bert / COMMIT / unwanted).parent.mkdir(exist_ok=True)
        (bert / COMMIT / unwanted).write_text("not wanted")
    write_variant(folder / "owner" / "gated" / COMMIT, "bert")
    write_variant(folder / "owner" / "pickle" / COMMIT, "bert")
    (folder / "owner" / "pickle" / COMMIT / "model.safetensors").rename(
        folder / "owner" / "pickle" / COMMIT / "pytorch_model.bin"
    )
    handler = type("HubOfThisTest", (Hub,), {"folder": folder, "requested": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_hub(monkeypatch, endpoint=f"http://127.0.0.1:{server.server_port}", cache_dir=tmp_path / "cache")
    yield handler
    server.shutdown()
    server.server_close()


def use_hub(monkeypatch, **options: object) -> None:
    """Let the real client ask another hub. (Its HF_ENDPOINT is read only once, when it is imported.)"""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", partial(REAL_DOWNLOAD, **options))


def faults_of(source: str, revision: str | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(source, revision)
    assert caught.value.subject == source
    return caught.value.faults


# --- on this machine -----------------------------------------------------------------------------


def test_paths_are_returned_as_they_are(make_checkpoint, monkeypatch):
    folder = make_checkpoint()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    for source in (str(folder), str(folder / "model.safetensors")):
        resolved = resolve_checkpoint(source)
        assert resolved == ResolvedCheckpoint(Path(source), source, None)
        assert resolved.origin is None


def test_a_folder_named_like_a_hub_id_is_the_folder(make_checkpoint, monkeypatch):
    folder = make_checkpoint()
    monkeypatch.chdir(folder.parent.parent)
    source = f"{folder.parent.name}/{folder.name}"
    assert resolve_checkpoint(source).path == Path(source)


def test_a_folder_has_no_revision(make_checkpoint):
    (fault,) = faults_of(str(make_checkpoint()), "main")
    assert fault == "is on this machine, and has no revision 'main': leave `revision` out"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "bert-base-chinese",
        "./no/folder",
        "/no/folder",
        "a/b/c",
        "owner/",
        "owner/na me",
        "https://x.y/z",
        "所/有",
        "~/x",
    ],
)
def test_neither_a_path_nor_a_hub_id(source):
    assert faults_of(source) == ["expected an existing folder, a .safetensors file, or a hub id `owner/name`"]


def test_a_file_that_is_not_weights(make_checkpoint):
    assert faults_of(str(make_checkpoint() / "vocab.txt")) == [
        "expected an existing folder, a .safetensors file, or a hub id `owner/name`"
    ]


# --- on the hub ----------------------------------------------------------------------------------


def test_a_download_is_pinned_to_its_commit(hub, capfd):
    resolved = resolve_checkpoint("owner/bert")
    assert (resolved.source, resolved.revision) == ("owner/bert", COMMIT)
    assert resolved.origin == {"hub": "owner/bert", "revision": COMMIT}
    with Checkpoint.open(resolved.path) as checkpoint:
        assert len(checkpoint.parameters()) == 60
    assert capfd.readouterr() == ("", "")  # no progress bars in a log


def test_only_what_is_needed_is_downloaded(hub):
    resolved = resolve_checkpoint("owner/bert")
    assert sorted(path.relative_to(resolved.path).as_posix() for path in resolved.path.rglob("*")) == [
        "config.json",
        *(f"model-0000{index}-of-00003.safetensors" for index in (1, 2, 3)),
        "model.safetensors.index.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert not [path for path in hub.requested if path.endswith((".bin", ".py", ".md", "5/model.safetensors"))]


@pytest.mark.parametrize("revision", ["v1", OLDER])
def test_a_revision(hub, revision):
    resolved = resolve_checkpoint("owner/bert", revision)
    assert resolved.revision == OLDER
    assert (resolved.path / "model.safetensors").is_file()


def test_what_was_downloaded_is_found_again_without_the_hub(hub):
    first = resolve_checkpoint("owner/bert", "v1")
    hub.down = True
    assert resolve_checkpoint("owner/bert", "v1") == first
    assert resolve_checkpoint("owner/bert", OLDER) == first


def test_what_the_hub_does_not_have(hub):
    assert faults_of("owner/nothing") == [
        "no such folder or file, and no such repository on the hub (or a private one)"
    ]
    assert faults_of("owner/bert", "v9") == ["the hub has no revision 'v9' of it"]
    assert faults_of("owner/gated") == ["the hub requires permission: request access, then `hf auth login`"]
    (fault,) = faults_of("owner/pickle")
    assert fault == f"the hub has no .safetensors file in it at {COMMIT}; see `yizhi import`"
    assert faults_of("owner/a--b") == ["expected an existing folder, a .safetensors file, or a hub id `owner/name`"]


def test_a_hub_that_is_down(hub):
    hub.down = True
    (fault,) = faults_of("owner/bert")
    assert fault.startswith("no such folder or file; the hub cannot be reached (HfHubHTTPError), and its cache")


@pytest.mark.parametrize(
    "error", [requests.exceptions.ProxyError("no way out"), OSError(28, "No space left on device")]
)
def test_a_download_that_breaks_off(monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    (fault,) = faults_of("owner/bert")
    assert fault == f"could not be downloaded: {error}"


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_hub(monkeypatch, endpoint="http://127.0.0.1:1", cache_dir=tmp_path)
    (fault,) = faults_of("owner/bert")
    assert "the hub cannot be reached (ConnectionError), and its cache does not hold this revision" in fault


def test_the_missing_package_is_named(monkeypatch):
    real_import = builtins.__import__

    def without_hub(name, *arguments):
        if name.split(".")[0] == "huggingface_hub":
            raise ModuleNotFoundError(name)
        return real_import(name, *arguments)

    monkeypatch.delitem(sys.modules, "huggingface_hub")
    monkeypatch.setattr(builtins, "__import__", without_hub)
    (fault,) = faults_of("owner/bert")
    assert "pip install 'yizhi[hub]'" in fault
