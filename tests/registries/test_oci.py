"""Push to and pull from an OCI registry: whole, checked, and without trust in what it says."""

import base64
import json
from pathlib import Path

import pytest
import requests

from tests.registries.kills import run_killed_at
from tests.registries.oci_server import Registry, serve, sha256
from yizhi.cli import main
from yizhi.registries import oci_client
from yizhi.registries.address import OciAddress
from yizhi.registries.contents import read_release
from yizhi.registries.oci import PATH, describe
from yizhi.release.manifest import MANIFEST
from yizhi.storage.digests import describe_folder


def push(release, registry, *options):
    return main(["push", str(release), "--to", registry.address, *options])


def pull(registry, out, *options):
    return main(["pull", registry.address, "--out", str(out), *options])


def sent(registry):
    return [path for method, path, _ in registry.seen if method in ("POST", "PUT", "PATCH", "DELETE")]


def left_behind(folder: Path) -> list[str]:
    """What a failed pull into `folder / "out"` must not leave."""
    return [path.name for path in folder.iterdir() if "out" in path.name]


# --- there and back -------------------------------------------------------------------------------


def test_without_yes_nothing_is_sent(finished_release, registry, capsys):
    assert push(finished_release, registry) == 0
    assert sent(registry) == []
    said = capsys.readouterr().out
    assert "onnx/model.onnx\n" in said
    assert "where nothing is yet" in said
    assert "Nothing was sent: add --yes" in said


def test_a_release_comes_back_as_it_went(finished_release, pushed, tmp_path, capsys):
    assert pull(pushed, tmp_path / "out", "--json") == 0
    assert describe_folder(tmp_path / "out") == describe_folder(finished_release)
    version = json.loads(capsys.readouterr().out)["version"]
    assert version == sha256(pushed.tags["1.0"])
    pushed.address = f"oci://{pushed.host}/models/bert@{version}"
    assert pull(pushed, tmp_path / "by-digest") == 0
    assert main(["verify", str(tmp_path / "by-digest"), "--target", "onnx"]) == 0


def test_the_manifest_is_modelpacks(finished_release, pushed):
    manifest = json.loads(pushed.tags["1.0"])
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {layer["annotations"][PATH]: layer["mediaType"].split(".")[3:-2] for layer in manifest["layers"]}
    assert kinds["onnx/model.onnx.data"] == ["weight"]
    assert kinds["onnx/tokenizer.json"] == ["weight", "config"]
    assert kinds["README.md"] == kinds[MANIFEST] == ["doc"]
    assert kinds["golden/golden.safetensors"] == ["dataset"]
    config = json.loads(pushed.blobs[manifest["config"]["digest"]])
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    # A layer is the file: its digest is the file's.
    assert {path: entry["sha256"] for path, entry in describe_folder(finished_release).items()} == {
        layer["annotations"][PATH]: layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]
    }


def test_what_is_there_is_not_sent_again(release, pushed, capsys):
    assert push(release, pushed, "--yes") == 0
    assert sent(pushed) == []
    assert "holds this release already" in capsys.readouterr().out
    (release / "report" / "parity.json").write_text("{}\n")
    before = pushed.tags["1.0"]
    assert push(release, pushed, "--yes") == 0
    assert f"instead of {sha256(before)}" in capsys.readouterr().out
    assert len([path for path in sent(pushed) if "state=" in path]) == 2  # the report, and ModelPack's configuration
    assert pushed.tags["1.0"] != before


def test_one_target_comes_alone(pushed, tmp_path, capsys):
    out = tmp_path / "out"
    assert pull(pushed, out, "--target", "onnx-int8", "--verify") == 0
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"golden", "onnx-int8"}
    fetched = {path for _, path, _ in pushed.seen}
    layers = json.loads(pushed.tags["1.0"])["layers"]
    weights = next(layer["digest"] for layer in layers if layer["annotations"][PATH] == "onnx/model.onnx.data")
    assert not [path for path in fetched if weights in path]
    assert pull(pushed, tmp_path / "other", "--target", "flax") == 2
    assert "--target: has no flax; it has onnx, onnx-int8" in capsys.readouterr().err


def test_a_pull_replaces_a_release_and_nothing_else(release, pushed, tmp_path, capsys):
    (release / "onnx" / "vocab.txt").write_text("")
    assert pull(pushed, release) == 0
    assert main(["verify", str(release), "--target", "onnx"]) == 0
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    assert pull(pushed, tmp_path / "thesis") == 2
    assert "not ours to replace" in capsys.readouterr().err


def test_a_signature_is_checked_before_the_folder_is_there(release, registry, tmp_path, capsys, monkeypatch):
    pytest.importorskip("model_signing")
    from tests.release.test_signing import make_keys

    private, public = make_keys(tmp_path / "keys")
    assert main(["sign", str(release), "--key", str(private)]) == 0
    monkeypatch.chdir(tmp_path)
    assert push(Path("release"), registry, "--yes", "--public-key", str(public)) == 0
    assert pull(registry, Path("out"), "--public-key", str(public)) == 0
    _, other = make_keys(tmp_path / "others")
    assert pull(registry, tmp_path / "out-2", "--public-key", str(other)) == 1
    assert not (tmp_path / "out-2").exists()
    assert push(release, registry, "--yes", "--public-key", str(other)) == 1
    assert pull(registry, tmp_path / "out-3", "--public-key", str(public), "--target", "onnx") == 2
    assert "--target" in capsys.readouterr().err


# --- refused before anything is sent --------------------------------------------------------------


def flip(release):
    data = bytearray((release / "onnx" / "model.onnx").read_bytes())
    data[100] ^= 1
    (release / "onnx" / "model.onnx").write_bytes(data)


def link_a_file(release):
    (release / "onnx" / "vocab.txt").rename(release.parent / "vocab.txt")
    (release / "onnx" / "vocab.txt").symlink_to(release.parent / "vocab.txt")


def link_the_report(release):
    """What a link leads to must not leave with a release that somebody else gave."""
    (release / "report" / "parity.xml").unlink()
    (release / "report" / "parity.xml").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("alter", "code", "says"),
    [
        (lambda release: (release / MANIFEST).unlink(), 2, "not a finished release"),
        (flip, 1, "onnx/model.onnx: expected sha256"),
        (link_a_file, 1, "onnx/vocab.txt: is a symbolic link"),
        (lambda release: (release / "notes.txt").touch(), 1, "./notes.txt: not listed"),
        (lambda release: (release / "onnx" / "README.md").write_text("x"), 1, "onnx/README.md: differs"),
        (lambda release: (release / "README.md").unlink(), 1, "./README.md: missing"),
        (link_the_report, 2, "report/parity.xml: is a symbolic link"),
        (lambda release: (release / "report" / "diary.txt").touch(), 2, "report/diary.txt: is no file of a report"),
    ],
)
def test_what_is_not_whole_is_not_sent(release, registry, capsys, alter, code, says):
    alter(release)
    assert push(release, registry, "--yes") == code
    assert says in capsys.readouterr().err
    assert registry.seen == []


def test_a_digest_is_no_place_to_push_to(release, registry, capsys):
    registry.address = f"oci://{registry.host}/models/bert@sha256:{'0' * 64}"
    assert push(release, registry, "--yes") == 2
    assert "expected a tag" in capsys.readouterr().err
    assert sent(registry) == []


# --- registries that lie --------------------------------------------------------------------------


def change_layer(path, **changes):
    """Alter what the registry lists of one file."""

    def change(registry):
        manifest = json.loads(registry.tags["1.0"])
        layer = next(layer for layer in manifest["layers"] if layer["annotations"][PATH] == path)
        name = changes.get("name")
        if name is not None:
            layer["annotations"][PATH] = name
        layer.update({key: value for key, value in changes.items() if key != "name"})
        registry.tags["1.0"] = json.dumps(manifest).encode()

    return change


def change_layers(change):
    def apply(registry):
        manifest = json.loads(registry.tags["1.0"])
        change(manifest)
        registry.tags["1.0"] = json.dumps(manifest).encode()

    return apply


def change_blob(path, change):
    """Answer with other bytes under the digest that was asked for."""

    def apply(registry):
        layers = json.loads(registry.tags["1.0"])["layers"]
        digest = next(layer["digest"] for layer in layers if layer["annotations"][PATH] == path)
        registry.blobs[digest] = change(registry.blobs[digest])

    return apply


def add_layer(**layer):
    def change(manifest):
        extra = {**manifest["layers"][0], **layer}
        manifest["layers"].append(extra)

    return change_layers(change)


def named(path):
    return {"annotations": {PATH: path}}


RAW = "application/vnd.cncf.model.weight.v1.raw"


@pytest.mark.parametrize(
    ("lie", "code", "says"),
    [
        (change_layer("onnx/model.onnx", digest="sha256:" + "0" * 64), 1, "the registry lists 0000"),
        (change_layer("onnx/model.onnx", size=3), 1, "onnx/model.onnx: expected size"),
        (change_layer("onnx/model.onnx", size=-1), 2, "size: expected bytes; found -1"),
        (change_layer("onnx/model.onnx", size=True), 2, "size: expected bytes; found True"),
        (change_layer("onnx/model.onnx", digest="md5:00"), 2, "digest: expected sha256"),
        (change_layer("onnx/model.onnx", digest=None), 2, "digest: expected sha256"),
        (change_layer("onnx/model.onnx", mediaType="application/vnd.cncf.model.weight.v1.tar"), 2, "a raw file"),
        (change_layer("onnx/model.onnx", name="onnx/model2.onnx"), 1, "onnx/model.onnx: missing"),
        (change_layer("onnx/model.onnx", annotations=None), 2, "expected a new path inside the release; found None"),
        (change_layer("onnx/model.onnx", name="onnx/vocab.txt"), 2, "expected a new path"),
        (add_layer(**named("../evil")), 2, "found '../evil'"),
        (add_layer(**named("onnx/../../evil")), 2, "found 'onnx/../../evil'"),
        (add_layer(**named("/etc/evil")), 2, "found '/etc/evil'"),
        (add_layer(**named("C:\\evil")), 2, "expected a new path"),
        (add_layer(**named("a\x1b[31m")), 2, "expected a new path"),
        (add_layer(**named("onnx/evil.py")), 1, "'onnx/evil.py': is no file of this release"),
        (add_layer(**named("report/../evil")), 2, "expected a new path"),
        (add_layer(**named("report")), 1, "'report': is no file of this release"),
        (add_layer(**named("report/evil.sh")), 1, "is no file of this release"),
        (change_layers(lambda manifest: manifest["layers"].pop(0)), 1, "README.md: missing"),
        (change_layers(lambda manifest: manifest.update(layers="x")), 2, "layers: expected a list"),
        (change_layers(lambda manifest: manifest.update(layers=[3])), 2, "layers[0]"),
        (change_layers(lambda manifest: manifest.update(layers=[])), 2, "no manifest.json"),
        (change_layers(lambda manifest: manifest.update(artifactType="x")), 2, "expected artifactType"),
        (lambda registry: registry.tags.update({"1.0": b"[[["}), 2, "holds no release"),
        (lambda registry: registry.tags.update({"1.0": b"[" * 100_000}), 2, "holds no release"),
        (lambda registry: registry.tags.update({"1.0": b" " * (5 << 20)}), 2, "has more than"),
        (change_blob("onnx/model.onnx", lambda data: data[:-1]), 1, "bytes; found"),
        (change_blob("onnx/model.onnx", lambda data: data + b"x"), 1, "bytes; found more"),
        (change_blob("onnx/model.onnx", lambda data: b"x" + data[1:]), 1, "expected sha256"),
        (change_blob(MANIFEST, lambda data: data.replace(b"onnx", b"evil", 1)), 1, "manifest.json: expected sha256"),
        (lambda registry: registry.blobs.clear(), 2, "has no such repository"),
        (lambda registry: registry.tags.clear(), 2, "there is nothing"),
    ],
)
def test_a_lie_is_found_and_nothing_is_left(pushed, tmp_path, capsys, lie, code, says):
    lie(pushed)
    assert pull(pushed, tmp_path / "out") == code
    error = capsys.readouterr().err
    assert says in error
    assert "\x1b" not in error
    assert left_behind(tmp_path) == []


def test_a_manifest_that_is_consistent_with_itself_alone_is_refused(release, registry, tmp_path, capsys):
    """Layers and digests agree, and the release's own manifest does not."""
    manifest, files = read_release(release)
    data = (release / MANIFEST).read_bytes().replace(b'"fill-mask"', b'"evil-mask"')
    files = [file if file.path != MANIFEST else type(file)(MANIFEST, sha256(data)[7:], len(data)) for file in files]
    registry.tags["1.0"] = describe(manifest, files)[1]
    registry.blobs.update(
        {sha256(path.read_bytes()): path.read_bytes() for path in release.rglob("*") if path.is_file()}
    )
    registry.blobs[sha256(data)] = data
    assert pull(registry, tmp_path / "out") == 2
    assert "was altered: its content and its own sha256 do not agree" in capsys.readouterr().err
    assert left_behind(tmp_path) == []


def test_another_manifest_under_a_digest_is_refused(pushed, tmp_path, capsys):
    digest = sha256(pushed.tags["1.0"])
    pushed.tags[digest] = pushed.tags["1.0"] + b" "
    pushed.address = f"oci://{pushed.host}/models/bert@{digest}"
    assert pull(pushed, tmp_path / "out") == 1
    assert "the registry gave another manifest" in capsys.readouterr().err


def break_off(request):
    """Promise more than is sent."""
    if request.command == "GET" and "/blobs/" in request.path:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        request.wfile.write(b"x" * 10)
        request.close_connection = True
        return True
    return False


def test_an_answer_that_breaks_off(pushed, tmp_path, capsys):
    pushed.fault = break_off
    assert pull(pushed, tmp_path / "out") == 2
    assert "the answer broke off after" in capsys.readouterr().err
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "asks for a login: docker login 127.0.0.1:"),
        (403, "does not allow it"),
        (429, "too many requests"),
        (500, "failed (HTTP 500)"),
        (503, "failed (HTTP 503)"),
        (418, "gave no answer that fits"),
    ],
)
@pytest.mark.parametrize("where", ["manifests", "blobs"])
def test_a_refusal_is_told(finished_release, pushed, tmp_path, capsys, status, says, where):
    def refuse(request):
        if f"/{where}/" in request.path:
            request.answer(status, b"<html>\x1b[31m</html>")
            return True
        return False

    pushed.fault = refuse
    assert pull(pushed, tmp_path / "out") == 2
    assert says in capsys.readouterr().err
    assert left_behind(tmp_path) == []
    pushed.tags.clear()
    assert push(finished_release, pushed, "--yes") == 2
    assert says in capsys.readouterr().err
    assert not pushed.tags


def test_a_registry_that_is_not_there(finished_release, tmp_path, capsys):
    with serve() as (_, host):
        pass
    assert main(["push", str(finished_release), "--to", f"oci://{host}/models/bert:1.0"]) == 2
    assert "cannot be reached" in capsys.readouterr().err


# --- logins ---------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["basic", "token"])
def guarded(request, registry, tmp_path, monkeypatch):
    """A registry that asks for a login, which docker's configuration has."""
    registry.login, registry.tokens = "me:s3cret", request.param
    auth = base64.b64encode(b"me:s3cret").decode()
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return registry


def test_a_stored_login_is_used_and_never_told(finished_release, guarded, tmp_path, capsys):
    assert push(finished_release, guarded, "--yes") == 0
    assert pull(guarded, tmp_path / "out") == 0
    printed = capsys.readouterr()
    secrets = ("s3cret", base64.b64encode(b"me:s3cret").decode(), "secret-token")
    assert not [secret for secret in secrets if secret in printed.out + printed.err]


@pytest.mark.parametrize(
    ("host", "repository", "configured"),
    [
        ("myhost", "models/bert", "index.docker.io"),
        ("myhost", "models/bert", "docker.io"),
        ("registry.example.org", "other.example.org/bert", "other.example.org"),
        ("registry.example.org:5000", "models/bert", "registry.example.org"),
    ],
)
def test_another_hosts_login_is_not_given_away(tmp_path, monkeypatch, host, repository, configured):
    (tmp_path / "config.json").write_text(json.dumps({"auths": {configured: {"auth": "c2VjcmV0"}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("ORAS_USER", "me")
    monkeypatch.setenv("ORAS_PASS", "s3cret")
    asked = requests.Response()
    asked.headers["WWW-Authenticate"] = 'Basic realm="x"'
    assert not oci_client.OciClient(OciAddress(host, repository, "1"))._log_in(asked)


def test_a_wrong_login_is_told(finished_release, guarded, capsys):
    guarded.login = "me:other"
    assert push(finished_release, guarded, "--yes") == 2
    assert "asks for a login" in capsys.readouterr().err


class Elsewhere(Registry):
    """Another host, which has the blobs and takes uploads."""


def test_a_login_follows_to_no_other_host(finished_release, guarded, tmp_path):
    with serve(Elsewhere) as (other, host):
        other.blobs = guarded.blobs

        def send_away(request):
            is_upload = request.command == "POST" and request.headers.get("Authorization")
            is_download = request.command == "GET" and "/blobs/" in request.path
            if is_upload:
                request.answer(202, b"", {"Location": f"http://{host}/v2/models/bert/blobs/uploads/1?state=a%2Fb"})
            elif is_download:
                request.answer(307, b"", {"Location": f"http://{host}{request.path}"})
            return bool(is_upload or is_download)

        guarded.fault = send_away
        assert push(finished_release, guarded, "--yes") == 0
        assert pull(guarded, tmp_path / "out") == 0
        assert len(other.seen) > 20
        assert {login for _, _, login in other.seen} == {None}


@pytest.mark.parametrize(
    "location",
    ["http://registry.example.org/x", "file:///etc/passwd", "//169.254.169.254/x", "http://127.0.0.1@evil.org/"],
)
def test_a_redirect_to_the_open_is_refused(pushed, tmp_path, capsys, location):
    pushed.fault = lambda request: "/blobs/" in request.path and not request.answer(302, b"", {"Location": location})
    assert pull(pushed, tmp_path / "out") == 2
    assert "which is not safe" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["blobs", "manifests"])
def test_an_address_that_is_none_and_a_packed_answer(pushed, finished_release, tmp_path, capsys, where):
    pushed.fault = lambda request: (
        f"/{where}/" in request.path and not request.answer(302, b"", {"Location": "http://["})
    )
    assert pull(pushed, tmp_path / "out") == 2
    assert "sends to an address that is none" in capsys.readouterr().err
    packed = {"Content-Encoding": "gzip"}
    pushed.fault = lambda request: f"/{where}/" in request.path and not request.answer(200, b"x", packed)
    assert pull(pushed, tmp_path / "out") == 2
    assert "answers in 'gzip', which was not asked for" in capsys.readouterr().err
    pushed.tags.clear()
    pushed.fault = lambda request: request.command == "POST" and not request.answer(202, b"", {"Location": "http://["})
    pushed.blobs.clear()
    assert push(finished_release, pushed, "--yes") == 2
    assert "sends to an address that is none: 'http://['" in capsys.readouterr().err


def test_redirects_in_a_circle_end(pushed, tmp_path, capsys):
    pushed.fault = lambda request: not request.answer(302, b"", {"Location": request.path})
    assert pull(pushed, tmp_path / "out") == 2
    assert "more than 5 redirects" in capsys.readouterr().err


def test_a_token_is_not_asked_for_in_the_open(registry, tmp_path, capsys):
    challenge = 'Bearer realm="http://evil.example.org/token",service="x"'
    registry.fault = lambda request: not request.answer(401, b"", {"WWW-Authenticate": challenge})
    assert pull(registry, tmp_path / "out") == 2
    assert "asks for a login at evil.example.org, which is not safe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.1", True),
        ("[::1]:5000", True),
        ("localhost.evil.org", False),
        ("127.0.0.1.evil.org", False),
        ("10.0.0.1:5000", False),
        ("registry.example.org", False),
    ],
)
def test_plain_http_is_for_loopback_alone(host, local):
    assert oci_client.is_loopback(host) is local


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_push_that_is_killed_leaves_the_former_release_at_the_tag(release, pushed, tmp_path):
    """At every request: the tag holds one of the two, whole, and the push can be done again."""
    former = pushed.tags["1.0"]
    (release / "report" / "parity.json").write_text("{}\n")
    arguments = ["push", str(release), "--to", pushed.address, "--yes"]
    number, blobs, finished = 0, dict(pushed.blobs), False
    while not finished:
        number += 3 if number else 1
        finished = run_killed_at(pushed, number, arguments)
        assert finished == (pushed.tags["1.0"] != former)
        if number % 5 == 0 or finished:
            out = tmp_path / f"out-{number}"
            assert pull(pushed, out) == 0
            assert ((out / "report" / "parity.json").read_text() == "{}\n") == finished
        if not finished:
            pushed.blobs.clear()
            pushed.blobs.update(blobs)
    assert number > 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_pull_that_is_killed_leaves_a_whole_release_or_none(pushed, tmp_path):
    out, number, finished = tmp_path / "out", 0, False
    while not finished:
        number += 3 if number else 1
        finished = run_killed_at(pushed, number, ["pull", pushed.address, "--out", str(out)])
        assert out.exists() == finished
    assert number > 20
    assert main(["verify", str(out), "--target", "onnx"]) == 0
    assert left_behind(tmp_path) == ["out"]  # what kills left was removed by the next
    before = describe_folder(out)
    for number in (1, 5, 20):
        assert not run_killed_at(pushed, number, ["pull", pushed.address, "--out", str(out)])
        assert describe_folder(out) == before
