"""The Ray engine on a cluster of two nodes: the local engine's bytes, also where workers and nodes are lost."""

import importlib.util
import os
import pickle
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi import cluster as cluster_module
from yizhi.bulk import ray_engine
from yizhi.bulk.job import Job
from yizhi.bulk.operators import OperatorSpec
from yizhi.bulk.progress import Progress
from yizhi.bulk.ray_engine import RayEngine
from yizhi.bulk.run import run
from yizhi.cli import main
from yizhi.cluster import QUIET
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.storage.records import Source

pytestmark = pytest.mark.slow

if not importlib.util.find_spec("ray"):
    pytest.skip("Ray is not installed", allow_module_level=True)

TEXTS = ["北京是[MASK]国的首都。", "你[MASK]", "这个酒店\u2028服务很[MASK]！", "Hello, [MASK] world", "天[MASK]" * 20]


def _start_cluster():
    """Two nodes of one processor each."""
    from ray.cluster_utils import Cluster

    for attempt in range(3):
        cluster = Cluster()
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False)
        except Exception:  # a node's agents have 15 s to start, too little on a very busy machine
            cluster.shutdown()
            if attempt == 2:
                raise
        else:
            return cluster
    raise AssertionError


@pytest.fixture(scope="module")
def cluster():
    """What this process is connected to."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        import ray

        cluster = _start_cluster()
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="critical")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    with Checkpoint.open(write_variant(folder / "checkpoint", "bert")) as checkpoint:
        for target in ("onnx", "onnx-int8"):
            export_artifact(checkpoint, target, folder / target)
    # Slow enough for a worker to be killed in the middle.
    config = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024}
    with Checkpoint.open(write_variant(folder / "wide-checkpoint", "bert", config=config)) as checkpoint:
        export_artifact(checkpoint, "onnx-int8", folder / "wide")
    return folder


@pytest.fixture(scope="module")
def source(release):
    """1,000 rows, one in fifty of which cannot be used."""
    texts = [(TEXTS[number % 5] + str(number)) if number % 50 else "的" * 70 for number in range(1000)]
    path = release / "in.txt"
    path.write_bytes("\n".join(texts).encode())
    return path


def make_job(release, source, output, kind="embed", target="onnx-int8", **changes):
    settings = {"pooling": "mean"} if kind == "embed" else {"top_k": 2}
    operator = OperatorSpec(kind, release / target, settings, threads=1)
    read = Source.of(str(source), None, "text", None)
    return Job(read, output, operator, errors=output.with_suffix(".errors"), window=20, **changes)


class Stop(Exception):
    """What a test stops a run with."""


class Watched(Progress):
    """Calls acts[n] when n windows are written."""

    def __init__(self, acts=None):
        super().__init__()
        self._written, self._acts = 0, acts or {}

    def advance(self, rows, done):
        self._written += 1
        if self._written in self._acts:
            self._acts[self._written]()


def answer_locally(release, source, output, **changes):
    position = run(make_job(release, source, output, **changes), Watched(), pytest.fail)
    assert (position.records, position.failed) == (1000, 20)
    return read_both(output)


def read_both(output):
    return output.read_bytes(), output.with_suffix(".errors").read_bytes()


def find_workers(actor="MapWorker"):
    """Process ids of actors that this process's cluster runs: they are its descendants, called by their class."""
    parents, found = {}, []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if f"ray::{actor}" in (folder / "cmdline").read_text(errors="replace"):
                    found.append(int(folder.name))
            except OSError:  # it ended meanwhile
                continue

    def descends(process):
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return [process for process in found if descends(process)]


def wait_for_workers(count):
    end = time.monotonic() + 120
    while len(find_workers()) < count:
        assert time.monotonic() < end, f"{count} workers were not started"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("suffix", "changes"),
    [("npy", {}), ("jsonl", {"kind": "fill-mask"}), ("parquet", {"target": "onnx"})],
)
def test_the_bytes_are_those_of_the_local_engine(cluster, release, source, tmp_path, suffix, changes):
    expected = answer_locally(release, source, tmp_path / f"local.{suffix}", **changes)
    output = tmp_path / f"ray.{suffix}"
    progress = Watched({1: lambda: wait_for_workers(2)})
    run(make_job(release, source, output, **changes), progress, pytest.fail, RayEngine())
    assert read_both(output) == expected


def test_workers_that_die_lose_nothing(cluster, release, source, tmp_path):
    expected = answer_locally(release, source, tmp_path / "local.jsonl", target="wide")
    killed, others = [], []

    def kill():
        killed.extend(find_workers())
        for process in killed:
            os.kill(process, signal.SIGKILL)

    output = tmp_path / "ray.jsonl"
    progress = Watched({3: kill, 49: lambda: others.extend(find_workers())})
    run(make_job(release, source, output, target="wide"), progress, pytest.fail, RayEngine())
    assert read_both(output) == expected
    assert killed
    assert set(others) - set(killed), "all was answered before the workers died"


def test_what_one_engine_began_another_finishes(cluster, release, source, tmp_path):
    expected = answer_locally(release, source, tmp_path / "local.npy")

    def stop():
        raise Stop

    output = tmp_path / "ray.npy"
    for engine in (RayEngine(), RayEngine(workers=1)):
        with pytest.raises(Stop):
            run(make_job(release, source, output), Watched({10: stop}), pytest.fail, engine)
        assert not output.exists()
    position = run(make_job(release, source, output), Watched(), pytest.fail)
    assert (position.records, position.failed) == (1000, 20)
    assert read_both(output) == expected


def test_what_goes_wrong_elsewhere_is_told_before_anything_is_written(cluster, release, source, tmp_path, monkeypatch):
    # Stands for a node that has another artifact on the same path.
    monkeypatch.setattr(ray_engine, "sha256_of_file", lambda path: "0" * 64)
    job = make_job(release, source, tmp_path / "out.npy")
    with pytest.raises(InputError, match="is another artifact: expected sha256 0000") as error:
        run(job, Watched(), pytest.fail, RayEngine())
    assert "worker on " in str(error.value)

    table = tmp_path / "in.csv"
    table.write_text("id,words\n1,天\n")
    job = make_job(release, table, tmp_path / "out.npy")
    with pytest.raises(InputError, match="has no column 'text'; found 'id', 'words'"):
        run(job, Watched(), pytest.fail, RayEngine())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


def test_strict_stops_at_the_first_bad_row(cluster, release, source, tmp_path):
    with pytest.raises(InputError, match="row 1: expected at most 64 tokens"):
        run(make_job(release, source, tmp_path / "out.npy", strict=True), Watched(), pytest.fail, RayEngine())


def test_a_worker_without_the_artifact_says_so(release, source, tmp_path):
    job = make_job(release, source, tmp_path / "out.npy", target="nowhere")
    worker = ray_engine.Worker(job, "0" * 64)
    (window,) = list(make_job(release, source, tmp_path / "out.npy").read(980))
    (answer,) = worker({"window": np.array([pickle.dumps(window)], object)})["answers"]
    fault = pickle.loads(answer)
    assert isinstance(fault, InputError)
    assert "no artifact on this path, which every node must have" in str(fault)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers:\n  - is for --engine ray"),
        (["--address", "auto"], "--address:\n  - is for --engine ray"),
    ],
)
def test_options_of_another_engine(release, source, tmp_path, capsys, options, message):
    output = ["--output", str(tmp_path / "out.npy")]
    assert main(["embed", str(release / "onnx-int8"), str(source), *output, *options]) == 2
    assert message in capsys.readouterr().err


def test_standard_input_and_a_missing_ray_are_refused(release, source, tmp_path, capsys, monkeypatch):
    command = ["embed", str(release / "onnx-int8"), "-", "--output", str(tmp_path / "out.npy"), "--engine", "ray"]
    assert main(command) == 2
    assert "expected a file, because Ray reads the input again" in capsys.readouterr().err
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: None)
    assert main([str(source) if word == "-" else word for word in command]) == 2
    assert "pip install 'yizhi[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:{port}", "nothing answers there: Connection refused"),
        ("here", "expected auto or HOST:PORT; found 'here'"),
        ("ray://127.0.0.1:{port}", "run this on a node"),
    ],
)
def test_a_wrong_address(release, source, tmp_path, capsys, address, message):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = address.format(port=silent.getsockname()[1])
        options = ["--output", str(tmp_path / "out.npy"), "--engine", "ray", "--address", address]
        assert main(["embed", str(release / "onnx-int8"), str(source), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
