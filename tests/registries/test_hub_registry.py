"""Push to and pull from the hub, with the real client library and a hub on this machine's loopback."""

import json
from functools import partial

import pytest

from tests.registries.hub_server import Hub, Repository
from tests.registries.kills import run_killed_at
from tests.registries.oci_server import serve
from yizhi.cli import main
from yizhi.release.manifest import MANIFEST
from yizhi.storage.digests import describe_folder

pytest.importorskip("huggingface_hub")
NAME, TOKEN = "org/bert", "hf_s3cretToken"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that is this test's alone, a host beside it for large files, and a token that must stay secret."""
    from yizhi.registries import hub as registry

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(Hub) as (own, host), serve(Hub) as (other, elsewhere):
        own.repositories, own.lfs = {}, {}
        own.elsewhere, own.other, other.lfs, other.repositories = elsewhere, other, own.lfs, {}
        monkeypatch.setattr(registry, "HfApi", partial(registry.HfApi, endpoint=f"http://{host}", token=TOKEN))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield own


@pytest.fixture
def pushed(hub, finished_release, capfd):
    assert push(finished_release, "--yes") == 0
    hub.seen.clear()
    capfd.readouterr()
    return hub


def push(release, *options, to=f"hf://{NAME}"):
    return main(["push", str(release), "--to", to, *options])


def pull(out, *options, source=f"hf://{NAME}"):
    return main(["pull", source, "--out", str(out), *options])


def changes(hub):
    """Requests that could change the hub."""
    return [path for method, path, _ in hub.seen if method != "GET" and method != "HEAD"]


def test_without_yes_nothing_is_sent(finished_release, hub, capfd):
    assert push(finished_release) == 0
    assert changes(hub) == []
    assert hub.repositories == {}
    assert "where nothing is yet" in capfd.readouterr().out


def test_a_release_comes_back_as_it_went(finished_release, pushed, tmp_path, capfd):
    assert pushed.repositories[NAME].private
    commit = pushed.repositories[NAME].branches["main"]
    assert len(pushed.repositories[NAME].commits) == 2  # the hub's own first one, and the release
    assert pull(tmp_path / "out", "--json") == 0
    assert describe_folder(tmp_path / "out") == describe_folder(finished_release)
    printed = capfd.readouterr()
    assert json.loads(printed.out)["version"] == commit
    assert TOKEN not in printed.out + printed.err
    assert pull(tmp_path / "pinned", "--target", "onnx", source=f"hf://{NAME}@{commit}") == 0
    assert {path.name for path in (tmp_path / "pinned").iterdir() if path.is_dir()} == {"golden", "onnx"}
    # Large files lie on another host, and the token is not for it.
    assert pushed.other.seen
    assert {login for _, _, login in pushed.other.seen} == {None}


def test_a_new_release_replaces_the_former_in_one_commit(release, pushed, capfd):
    repository = pushed.repositories[NAME]
    former = repository.branches["main"]
    repository.commits[former]["old/file.bin"] = b"x"
    (release / "report" / "parity.json").write_text("{}\n")
    assert push(release, "--yes") == 0
    said = capfd.readouterr().out
    assert f"instead of {former}" in said
    assert "remove" in said
    assert "old/file.bin" in said
    assert len(repository.commits) == 3
    files = repository.commits[repository.branches["main"]]
    assert files.keys() == {*describe_folder(release), ".gitattributes"}


def test_somebody_elses_repository_is_not_replaced(finished_release, hub, capfd):
    repository = hub.repositories[NAME] = Repository(private=False)
    repository.commit("main", {"README.md": b"a repository that the site made"})
    assert push(finished_release) == 0
    repository.commit("main", {"README.md": b"", "thesis.pdf": b""})
    assert push(finished_release, "--yes") == 2
    assert "not ours to replace" in capfd.readouterr().err
    assert changes(hub) == []


def test_a_branch_is_made_and_a_tag_is_not_moved(finished_release, pushed, capfd):
    assert push(finished_release, "--yes", to=f"hf://{NAME}@v2") == 0
    repository = pushed.repositories[NAME]
    assert repository.commits[repository.branches["v2"]].keys() == {
        *describe_folder(finished_release),
        ".gitattributes",
    }
    repository.tags["v1"] = repository.branches["main"]
    capfd.readouterr()
    assert push(finished_release, "--yes", to=f"hf://{NAME}@v1") == 2
    assert "v1 is a tag or a commit" in capfd.readouterr().err


def test_a_repository_is_public_where_that_is_asked(finished_release, hub):
    assert push(finished_release, "--yes", "--public") == 0
    assert not hub.repositories[NAME].private


def test_what_is_not_whole_is_not_sent(release, hub, capfd):
    (release / "onnx" / "vocab.txt").write_text("x")
    assert push(release, "--yes") == 1
    assert "onnx/vocab.txt: expected" in capfd.readouterr().err
    (release / MANIFEST).unlink()
    assert push(release, "--yes") == 2
    assert hub.seen == []


def test_another_push_meanwhile_is_noticed(finished_release, pushed, capfd):
    repository = pushed.repositories[NAME]
    repository.commits[repository.branches["main"]]["README.md"] = b"changed"

    def overtake(request):
        if request.path.endswith("/preupload/main"):
            repository.commit("main", {"somebody": b"else"})
        return False

    pushed.fault = overtake
    assert push(finished_release, "--yes") == 2
    assert "another commit meanwhile" in capfd.readouterr().err
    assert repository.commits[repository.branches["main"]] == {"somebody": b"else"}


def test_a_file_that_the_hub_leaves_out_is_noticed(finished_release, hub, capfd):
    def ignore(request):
        if "/preupload/" not in request.path:
            return False
        asked = json.loads(request.body)["files"]
        request.say({"files": [{**file, "uploadMode": "regular", "shouldIgnore": True} for file in asked]})
        return True

    hub.fault = ignore
    assert push(finished_release, "--yes") == 1
    assert "does not hold the release's files" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("alter", "code", "says"),
    [
        (lambda files: files.update({"onnx/vocab.txt": b"x" * 400}), 1, "onnx/vocab.txt: expected sha256"),
        (lambda files: files.update({"onnx/vocab.txt": b"x"}), 1, "onnx/vocab.txt: expected size"),
        (
            lambda files: files.update({"onnx/model.onnx": b"x" * len(files["onnx/model.onnx"])}),
            1,
            "the registry lists",
        ),
        (lambda files: files.update({"evil.py": b"x"}), 1, "'evil.py': is not a file of this release"),
        (lambda files: files.update({"../evil": b"x"}), 1, "'../evil': leads outside"),
        (lambda files: files.update({"/etc/evil": b"x"}), 1, "'/etc/evil': leads outside"),
        (lambda files: files.pop("onnx/README.md"), 1, "onnx/README.md: missing"),
        (lambda files: files.update({"onnx/README.md": b"x" * len(files["onnx/README.md"])}), 1, "onnx/README.md"),
        (lambda files: files.pop(MANIFEST), 2, "no manifest.json"),
        (lambda files: files.update({MANIFEST: b"{}"}), 2, "manifest.json: schema_version: missing"),
    ],
)
def test_a_repository_that_is_not_the_release(pushed, tmp_path, capfd, alter, code, says):
    repository = pushed.repositories[NAME]
    alter(repository.commits[repository.branches["main"]])
    assert pull(tmp_path / "out") == code
    assert says in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def cut(request):
    """Large files break off."""
    if request.command == "GET":
        request.give(b"x", {"Content-Length": "100000"})
        request.close_connection = True
    return request.command == "GET"


def test_an_answer_that_breaks_off(pushed, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    pushed.other.fault = cut
    assert pull(tmp_path / "out") in (1, 2)
    assert capfd.readouterr().err.startswith(f"yizhi: hf://{NAME}")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "asks for a login: hf auth login"),
        (403, "does not allow it with this login"),
        (429, "too many requests"),
        (500, "failed (HTTP 500)"),
    ],
)
def test_a_refusal_is_told(finished_release, pushed, tmp_path, capfd, status, says, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def refuse(request):
        asked = "/tree/" in request.path or "/preupload/" in request.path
        return asked and not request.say({"error": f"<b>\x1b[31m{TOKEN}"}, status)

    pushed.fault = refuse
    assert pull(tmp_path / "out") == 2
    assert push(finished_release, "--yes") == 2
    error = capfd.readouterr().err
    assert error.count(says) == 2
    assert TOKEN not in error


def test_nothing_is_there(hub, tmp_path, capfd):
    assert pull(tmp_path / "out") == 2
    assert "there is nothing" in capfd.readouterr().err
    hub.repositories[NAME] = Repository(private=False)
    assert pull(tmp_path / "out", source=f"hf://{NAME}@v9") == 2
    assert "there is nothing" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_kill_at_any_request_leaves_the_former_release(release, pushed, tmp_path, direction):
    repository, out = pushed.repositories[NAME], tmp_path / "out"
    former = repository.branches["main"]
    (release / "report" / "parity.json").write_text("{}\n")
    arguments = {
        "push": ["push", str(release), "--to", f"hf://{NAME}", "--yes"],
        "pull": ["pull", f"hf://{NAME}", "--out", str(out)],
    }[direction]
    number, finished = 0, False
    while not finished:
        number += 1 if direction == "push" else 9
        finished = run_killed_at(pushed, number, arguments)
        moved = repository.branches["main"] != former
        assert out.exists() == (finished and direction == "pull")
        if moved:
            files = repository.commits[repository.branches["main"]]
            assert {path: len(data) for path, data in files.items() if path != ".gitattributes"} == {
                path: entry["size"] for path, entry in describe_folder(release).items()
            }
        assert number < 400
    assert moved == (direction == "push")
    assert number > 4


def test_a_card_that_the_hub_refuses_is_told_before_anything_is_sent(finished_release, hub, capfd):
    """Such as a licence that is none of the hub's."""

    def judge(request):
        wrong = {"errors": [{"message": '"license" must be one of [mit]\x1b[31m'}], "warnings": []}
        return request.path.endswith("/validate-yaml") and not request.say(wrong, 400)

    hub.fault = judge
    assert push(finished_release, "--yes") == 2
    error = capfd.readouterr().err
    assert "the hub refuses it" in error
    assert '"license" must be one of [mit]' in error
    assert "\x1b" not in error
    assert not [path for path in changes(hub) if "/commit/" in path or "/lfs/" in path]
