"""OCI registries that lie: nothing that they say is believed."""

import json

import pytest

from tests.registries.commands import left_behind, pull, push
from tests.registries.oci_server import serve, sha256
from yizhi.cli import main
from yizhi.registries.contents import read_release
from yizhi.registries.oci import PATH, describe
from yizhi.release.manifest import MANIFEST


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
        (add_layer(**named("onnx/evil.py")), 1, "'onnx/evil.py': is not a file of this release"),
        (add_layer(**named("report/../evil")), 2, "expected a new path"),
        (add_layer(**named("report")), 1, "'report': is not a file of this release"),
        (add_layer(**named("report/evil.sh")), 1, "is not a file of this release"),
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
    assert "was altered: its own sha256 differs from its content" in capsys.readouterr().err
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
