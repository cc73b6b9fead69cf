"""`yizhi serve` as a process: what it checks before it serves, what it says, and how it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main
from yizhi.errors import CheckFailed, InputError
from yizhi.release.artifact import Artifact
from yizhi.release.key_signer import KeyChecker
from yizhi.runtimes import open_runtime
from yizhi.serving.admission import ask_golden, check_files
from yizhi.serving.server import find_artifacts, is_loopback

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release of onnx and onnx-int8."""
    folder = tmp_path_factory.mktemp("serving")
    checkpoint = write_variant(folder / "checkpoint", "bert")
    arguments = ["--target", "onnx", "--target", "onnx-int8", "--out", str(folder / "words")]
    assert main(["export", str(checkpoint), *arguments]) == 0
    return folder / "words"


@contextmanager
def run_server(*arguments, limit=60, **environment):
    """The process, the address it says, and its lines, which are all there once the process has ended.

    limit: seconds that it may take to say it.
    """
    command = [sys.executable, "-m", "yizhi", "serve", *map(str, arguments), "--port", "0"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    lines, ready = [], threading.Event()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=variables) as process:

        def read():
            for line in process.stderr:
                lines.append(line)
                if " at http://" in line:
                    ready.set()
            ready.set()

        reading = threading.Thread(target=read)
        reading.start()
        try:
            assert ready.wait(limit)
            found = re.search(r"at (http://[\w.:\[\]]+)", "".join(lines))
            assert found, f"no server: {''.join(lines)}"
            yield process, found[1], lines
        finally:
            process.kill()
            reading.join()


def end(process, with_signal=signal.SIGTERM):
    """The exit code of a process that is told to end."""
    process.send_signal(with_signal)
    return process.wait(30)


def test_a_release_is_served_as_int8_and_checked_first(release):
    with run_server(release, f"full={release}/onnx") as (process, address, lines):
        first, second = httpx.get(f"{address}/info").json()["models"]
        assert (first["name"], first["target"]) == ("words", "onnx-int8")
        assert (second["name"], second["target"]) == ("full", "onnx")
        assert first["golden_answers"] > 0
        assert len(first["release_sha256"]) == 64
        assert httpx.post(f"{address}/embed", json={"inputs": "北"}).status_code == 200
        assert end(process, signal.SIGINT) == 0
    assert any("path=/embed status=200" in line and "tokens=3" in line for line in lines)


def test_sigterm_under_load_leaves_nobody_without_an_answer(release):
    """Every request whose connection was taken is answered, whole, and the process then ends by itself."""
    answered, cut_off, refused = [], [], []
    begun = threading.Semaphore(0)

    def keep_asking(address):
        with httpx.Client(timeout=30) as client:
            while True:
                try:
                    found = client.post(f"{address}/embed", json={"inputs": ["北京" * 20] * 20})
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    refused.append(1)  # the server listens no more
                    return
                except httpx.RemoteProtocolError as error:
                    # An idle connection that the server closed as the request was sent.
                    cut_off.append(str(error))
                    return
                answered.append(found)
                begun.release()

    with run_server(release, "--threads", 1) as (process, address, lines):
        callers = [threading.Thread(target=keep_asking, args=(address,)) for _ in range(8)]
        for caller in callers:
            caller.start()
        for _ in range(24):
            assert begun.acquire(timeout=30)
        process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(30)
        assert process.wait(20) == 0
    assert {found.status_code for found in answered} == {200}
    assert all(len(found.json()) == 20 for found in answered)
    logged = sum("path=/embed status=200" in line for line in lines)
    assert logged == len(answered), "a request was computed, and its answer lost"
    assert not cut_off


def test_a_second_signal_ends_it_at_once(release):
    with run_server(release, "--threads", 1, "--max-texts", 5000) as (process, address, _):

        def ask():
            with pytest.raises(httpx.HTTPError):
                httpx.post(f"{address}/embed", json={"inputs": ["北京" * 28] * 2000}, timeout=100)

        asking = threading.Thread(target=ask)
        asking.start()
        while "yizhi_requests_in_progress 1.0" not in httpx.get(f"{address}/metrics").text:
            pass
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        asking.join()


def test_an_idle_client_is_answered_once_more_and_told_that_the_connection_ends(release):
    with run_server(release) as (process, address, _), httpx.Client(base_url=address) as client:
        assert "connection" not in client.get("/v2/health/ready").headers
        process.send_signal(signal.SIGTERM)
        with suppress(httpx.ConnectError):
            while True:  # until nobody new is let in
                httpx.get(f"{address}/health")
        found = client.get("/v2/health/ready")
        assert (found.status_code, found.headers["connection"]) == (503, "close")
        assert process.wait(20) == 0


def test_logs_are_json_where_that_is_asked_for_and_hold_no_key_and_no_text(release, tmp_path):
    trace = "0af7651916cd43dd8448eb211c80319c"
    with run_server(release, "--json-logs", YIZHI_API_KEY="a-long-key") as (process, address, lines):
        headers = {"authorization": "Bearer a-long-key", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert httpx.post(f"{address}/embed", json={"inputs": "北京"}, headers=headers).status_code == 200
        assert httpx.post(f"{address}/embed", json={"inputs": "北京"}).status_code == 401
        end(process)
    said = [json.loads(line) for line in lines]
    assert said.pop(0)["message"].startswith("serving words at http")
    assert [(one["path"], one["status"], one["refused"]) for one in said] == [
        ("/embed", 200, None),
        ("/embed", 401, "unauthorized"),
    ]
    assert said[0]["trace_id"] == trace
    assert not any("a-long-key" in line or "北京" in line for line in lines)


def test_an_altered_file_is_not_served(release, tmp_path, capsys):
    copy = tmp_path / "words"
    shutil.copytree(release, copy)
    with open(copy / "onnx-int8" / "vocab.txt", "ab") as file:
        file.write(b"x\n")
    assert main(["serve", str(copy), "--port", "0"]) == 1
    assert "vocab.txt" in capsys.readouterr().err


def test_an_artifact_that_is_not_its_releases_is_not_served(release, tmp_path):
    copy = tmp_path / "words"
    shutil.copytree(release, copy)
    description = copy / "onnx-int8" / "artifact.json"
    description.write_text(description.read_text().replace('"vocab.txt"', '"vocab.txt" '))
    with pytest.raises(CheckFailed, match="differs from the one in"):
        check_files(Artifact.read(copy / "onnx-int8"))
    (copy / "golden" / "cases.json").write_text("{}")
    with pytest.raises(CheckFailed, match="golden/cases"):
        check_files(Artifact.read(copy / "onnx-int8"))


def test_wrong_answers_are_not_served(release, monkeypatch):
    with open_runtime(release / "onnx-int8") as runtime:
        checked = check_files(runtime.artifact)
        assert ask_golden(runtime, checked).golden_answers > 0
        right = runtime.logits_at
        monkeypatch.setattr(runtime, "logits_at", lambda *given: -right(*given))
        with pytest.raises(CheckFailed, match="text: "):
            ask_golden(runtime, checked)


def test_an_artifact_alone_has_its_files_checked_and_no_more(release, tmp_path):
    artifact = Artifact.read(shutil.copytree(release / "onnx-int8", tmp_path / "alone"))
    checked = check_files(artifact)
    assert (checked.release_sha256, checked.golden_answers) == (None, None)
    with pytest.raises(InputError, match="lies in no release"):
        check_files(artifact, checker=object())


def test_a_signature_is_checked_with_a_key(release, tmp_path):
    copy, key, public = tmp_path / "words", tmp_path / "key.pem", tmp_path / "key.pub"
    shutil.copytree(release, copy)
    subprocess.run(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    with pytest.raises(CheckFailed, match="is not signed"):
        check_files(Artifact.read(copy / "onnx-int8"), KeyChecker(public))
    assert main(["sign", str(copy), "--key", str(key)]) == 0
    checker = KeyChecker(public)
    assert check_files(Artifact.read(copy / "onnx-int8"), checker).signed_by == checker.name


def test_models_are_called_as_their_release_or_as_they_are_told(release, tmp_path):
    assert find_artifacts([str(release)]) == {"words": release / "onnx-int8"}
    assert find_artifacts([f"a={release}", f"b={release}/onnx"]) == {
        "a": release / "onnx-int8",
        "b": release / "onnx",
    }
    alone = shutil.copytree(release / "onnx", tmp_path / "alone")
    assert find_artifacts([str(alone)]) == {"alone": alone}
    with pytest.raises(InputError) as caught:
        find_artifacts([f"hfl/rbt3={release}"])
    assert "a name with / in it" in caught.value.faults[0]
    with pytest.raises(InputError) as caught:
        find_artifacts([str(release), str(release / "onnx"), "nowhere", f"x={release.parent}/checkpoint"])
    assert len(caught.value.faults) == 3
    assert "words is already the name of" in caught.value.faults[0]
    (alone / "artifact.json").unlink()
    gone = shutil.copytree(release, tmp_path / "release")
    (gone / "onnx-int8" / "artifact.json").unlink()
    with pytest.raises(InputError) as caught:
        find_artifacts([str(gone), str(alone), "nowhere"])
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prompt", "query"], "--prompt:\n  - expected NAME=TEXT"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "nan"], "--timeout"),
        (["--timeout", "inf"], "--timeout"),
        (["--port", "99999"], "--port"),
        (["--max-texts", "0"], "--max-texts"),
        (["--api-key-file", "nowhere"], "nowhere"),
    ],
)
def test_bad_arguments_are_told(arguments, told, capsys):
    try:
        code = main(["serve", "no-model", *arguments])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", "taken"), ("not.a.host.invalid", "0"), ("192.0.2.1", "0")])
def test_an_address_that_cannot_be_had_is_told(release, address, host, port):
    port = address.rpartition(":")[2] if port == "taken" else port
    command = [sys.executable, "-m", "yizhi", "serve", release, "--host", host, "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 2
    assert "\nyizhi: --host" in f"\n{done.stderr}"
    assert host in done.stderr


@pytest.mark.parametrize("key", ["", " \n", "two\nlines", "钥匙", b"\xff\x00"])
def test_a_key_that_no_header_can_hold_is_refused(release, tmp_path, key, capsys):
    (tmp_path / "key").write_bytes(key if isinstance(key, bytes) else key.encode())
    assert main(["serve", "no-model", "--api-key-file", str(tmp_path / "key")]) == 2
    assert "expected a key" in capsys.readouterr().err


def test_an_address_that_others_reach_wants_a_key(release):
    for arguments, warned in ((["--host", "0.0.0.0"], True), (["--host", "127.0.0.1"], False)):
        with run_server(release, *arguments) as (_, _, lines):
            assert any("no key is required" in line for line in lines) == warned
    with run_server(release, "--host", "0.0.0.0", YIZHI_API_KEY="k") as (_, _, lines):
        assert not any("no key is required" in line for line in lines)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_loopback_is_told_from_other_addresses(host, loopback):
    assert is_loopback(host) == loopback
