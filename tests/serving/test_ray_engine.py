"""`yizhi serve` on a Ray cluster of this machine: replicas that come with load, die under it, and are drained."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.serving.test_server import ROOT, release, run_server  # noqa: F401  the fixture
from yizhi.cli import main
from yizhi.errors import CheckFailed, InputError, NotRun
from yizhi.release.manifest import read_manifest, write_manifest
from yizhi.serving.admission import Checked
from yizhi.serving.log import Log
from yizhi.serving.metrics import Metrics
from yizhi.serving.server import Settings
from yizhi.storage.digests import sha256_of_file

pytestmark = pytest.mark.slow

try:
    from yizhi.serving import ray_engine
    from yizhi.serving.ray_engine import Arguments, Replica, Replicas, Served, app
except NotRun as error:
    pytest.skip(str(error), allow_module_level=True)

CALLERS = 8


def find_replicas(process):
    """Process ids of replicas below a process."""
    found, waiting = [], [process]
    while waiting:
        parent = waiting.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                waiting += map(int, task.read_text().split())
            except OSError:  # it ended meanwhile
                continue
        try:
            if "ray::ServeReplica" in Path(f"/proc/{parent}/cmdline").read_text(errors="replace"):
                found.append(parent)
        except OSError:
            continue
    return set(found)


@contextmanager
def run_on_ray(*arguments):
    """As `run_server`. Ray's node has 30 s to start, too little on a very busy machine."""
    with ExitStack() as stack:
        for left in (2, 1, 0):
            try:
                server = stack.enter_context(run_server(*arguments, "--engine", "ray", limit=150))
            except AssertionError as error:
                if not left or "timed out during startup" not in str(error):
                    raise
            else:
                yield server
                return


def wait_until(true, seconds, told):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, told
        time.sleep(0.1)


class Load:
    """Callers that ask until they are told to end, each on a connection of its own, and what they got."""

    def __init__(self, address):
        self._address, self._over = address, threading.Event()
        self.answers, self.broken = [], []
        self._callers = [threading.Thread(target=self._keep_asking, args=(n,)) for n in range(CALLERS)]

    def _keep_asking(self, number):
        text = "北京的首都"[: number % 5 + 1]
        with httpx.Client(base_url=self._address, timeout=30) as client:
            while not self._over.is_set():
                try:
                    found = client.post("/embed", json={"inputs": [text] * 4})
                except httpx.HTTPError as error:
                    self.broken.append(error)
                    return
                self.answers.append((text, found))
                if found.status_code == 404:  # what Ray's proxy says once the application is no more
                    return

    def count(self):
        return Counter(found.status_code for _, found in self.answers)

    def __enter__(self):
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for caller in self._callers:
            caller.join(30)


def test_replicas_come_with_load_one_that_dies_costs_what_it_had_and_the_end_drains(release):  # noqa: F811
    with run_on_ray(release, "--max-replicas", 2, "--target-ongoing-requests", 1) as (process, address, _):
        assert httpx.get(f"{address}/info").json()["models"][0]["golden_answers"] > 0
        assert httpx.post(f"{address}/predict", json={"inputs": "北"}).status_code == 404
        headers = httpx.get(f"{address}/health", headers={"x-request-id": "mine"}).headers
        assert headers["x-request-id"] == "mine"
        with Load(address) as load:
            first = find_replicas(process.pid)
            assert len(first) == 1
            wait_until(lambda: len(find_replicas(process.pid)) == 2, 60, "no second replica was started")
            (second,) = find_replicas(process.pid) - first

            def serves():
                return second in find_replicas(process.pid) and httpx.get(f"{address}/health").is_success

            wait_until(serves, 30, "the second replica was not ready")
            os.kill(first.pop(), signal.SIGKILL)
            lost = load.count()
            wait_until(lambda: load.count()[200] > lost[200] + 100, 30, "nobody answered for the one that died")
            wait_until(lambda: len(find_replicas(process.pid) - {second}) == 1, 60, "it was not replaced")
            counted = load.count()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        # Whoever waited for the one that died was told so; whoever came last, that nothing is served here.
        assert set(counted) <= {200, 500}
        assert counted[500] <= CALLERS
        assert not load.broken
        assert load.count()[500] == counted[500]
        assert set(load.count()) <= {200, 404, 500}
        vectors = {}
        for text, found in load.answers:
            if found.status_code == 200:
                assert vectors.setdefault(text, found.text) == found.text


def test_what_a_worker_finds_wrong_is_told_before_anything_is_deployed(release, tmp_path):  # noqa: F811
    copy = tmp_path / "words"
    subprocess.run(["cp", "-r", release, copy], check=True)
    cases = copy / "golden" / "cases.json"
    golden, manifest = json.loads(cases.read_text()), read_manifest(copy)
    scores = golden["text"]["answers"][0]["said"][0]["scores"]
    scores.update(dict(zip(scores, reversed(scores.values()), strict=True)))
    cases.write_text(json.dumps(golden))
    manifest["golden"]["cases.json"] = {"sha256": sha256_of_file(cases), "size": cases.stat().st_size}
    write_manifest(copy, manifest)
    command = [
        sys.executable,
        "-m",
        "yizhi",
        "serve",
        copy / "onnx",
        "--engine",
        "ray",
        "--port",
        "0",
        "--min-replicas",
        "4",
    ]
    for left in (2, 1, 0):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=150, check=False)
        if not left or "timed out during startup" not in done.stderr:
            break
    assert done.returncode == 1
    assert "text: " in done.stderr
    assert "waiting for more" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_replica_serves_no_other_artifact_than_the_one_that_was_meant(release, tmp_path):  # noqa: F811
    served = Served.find({"words": release / "onnx-int8"})
    missing = replace(served, artifacts={"words": tmp_path / "nowhere"})
    with pytest.raises(InputError, match="no artifact on this path, which every node must have"):
        Replica(missing, Settings(), None)
    with pytest.raises(InputError, match="is another artifact: expected sha256 000"):
        Replica(replace(served, digests={"words": "0" * 64}), Settings(), None)
    with pytest.raises(InputError, match="lies in another release: expected sha256 111"):
        Replica(replace(served, checked={"words": Checked("1" * 64)}), Settings(), None)


def test_a_signature_is_asked_for_once_and_told_by_every_replica(release):  # noqa: F811
    class Nobody:
        """A checker whose signature the release lacks, and that cannot be sent to a replica."""

        def __reduce__(self):
            raise TypeError

    with pytest.raises(CheckFailed, match="is not signed"):
        Served.find({"words": release / "onnx-int8"}, Nobody())
    served = Served.find({"words": release / "onnx-int8"})
    signed = replace(served, checked={"words": replace(served.checked["words"], signed_by="me")})
    with signed.open(Settings(), Metrics(), Log()) as (model,):
        assert model.checked.signed_by == "me"
        assert model.checked.golden_answers > 0
    assert pickle.dumps(ray_engine._settle(Settings(checker=Nobody())))


def test_rays_own_commands_say_the_same(release, monkeypatch):  # noqa: F811
    """`serve run` gives texts; a config file, lists and numbers."""
    found = []
    monkeypatch.setattr(ray_engine, "deploy", lambda *given: found.append(given))
    monkeypatch.setenv("YIZHI_API_KEY", "key")
    app(Arguments(models=str(release)))
    app(Arguments(models=[f"a={release}"], limits={"requests": 9}, replicas={"max_replicas": 7}))
    (_, settings, replicas, key), (served, changed, more, _) = found
    assert (settings, replicas, key) == (Settings(), Replicas(), "key")
    assert served.artifacts == {"a": (release / "onnx-int8").resolve()}
    assert (changed.limits.requests, more.max_replicas) == (9, 7)
    for wrong in ({"model": "x"}, {"models": ["x"], "replicas": {"most": 3}}):
        with pytest.raises(ValueError, match=r"model|most"):
            Arguments(**wrong)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--min-replicas", "2"], "--min-replicas:\n  - is for --engine ray"),
        (["--address", "auto"], "--address:\n  - is for --engine ray"),
        (["--engine", "ray", "--address", "here"], "--address:\n  - expected auto or HOST:PORT"),
        (["--engine", "ray", "--min-replicas", "3", "--max-replicas", "2"], "--min-replicas and --max-replicas:\n"),
    ],
)
def test_bad_arguments_are_told(release, options, told, capsys):  # noqa: F811
    assert main(["serve", str(release), "--port", "0", *options]) == 2
    assert told in capsys.readouterr().err


def test_a_missing_ray_is_told(release, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "yizhi.serving.ray_engine")
    assert main(["serve", str(release), "--engine", "ray", "--port", "0"]) == 2
    assert "pip install 'yizhi[ray-serve]'" in capsys.readouterr().err
