"""Logins at OCI registries: found where docker keeps them, and sent to nobody else."""

import base64
import json

import pytest
import requests

from tests.registries.commands import pull, push
from tests.registries.oci_server import Registry, serve
from yizhi.registries import oci_client
from yizhi.registries.address import OciAddress


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
    assert "redirects to an invalid address" in capsys.readouterr().err
    packed = {"Content-Encoding": "gzip"}
    pushed.fault = lambda request: f"/{where}/" in request.path and not request.answer(200, b"x", packed)
    assert pull(pushed, tmp_path / "out") == 2
    assert "answers in 'gzip', which was not asked for" in capsys.readouterr().err
    pushed.tags.clear()
    pushed.fault = lambda request: request.command == "POST" and not request.answer(202, b"", {"Location": "http://["})
    pushed.blobs.clear()
    assert push(finished_release, pushed, "--yes") == 2
    assert "redirects to an invalid address: 'http://['" in capsys.readouterr().err


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
