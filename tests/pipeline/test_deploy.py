"""The machine that runs ONNX: onnxruntime, tokenizers, safetensors, numpy and rich; no torch, onnx or scipy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main

ROOT = Path(__file__).parents[2]
ABSENT = ("torch", "onnx", "scipy", "tensorflow", "jax", "flax", "transformers", "jsonschema")


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    checkpoint = write_variant(folder / "checkpoint", "bert")
    targets = ("--target", "pytorch", "--target", "onnx", "--target", "onnx-int8")
    assert main(["export", str(checkpoint), "--out", str(folder / "release"), *targets]) == 0
    return folder / "release"


@pytest.fixture(scope="module")
def deploy_python(tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with `yizhi[onnx]` built and installed; skips where pip cannot."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # A copy, since a build leaves its files beside the sources.
    ignored = shutil.ignore_patterns(".*", "build", "dist", "tests", "__pycache__")
    source = shutil.copytree(ROOT, folder / "source", ignore=ignored)
    install += ["--constraint", source / "constraints.txt", f"{source}[onnx]"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install yizhi[onnx] here: {done.stderr.strip().splitlines()[-1]}")
    return python


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Away from this checkout, so that what is installed is what is used."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, *arguments], capture_output=True, text=True, check=False, cwd=python.parent, env=clean
    )


@pytest.mark.slow
def test_onnx_artifacts_are_verified_and_answer_without_frameworks(release, deploy_python):
    found = run(deploy_python, "-c", f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])")
    assert found.stdout.strip() == "[]", found.stderr
    targets = ("--target", "onnx", "--target", "onnx-int8")
    verified = run(deploy_python, "-m", "yizhi", "verify", str(release), *targets, "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert all(found["passed"] and found["parity"]["worst"] for found in json.loads(verified.stdout).values())
    answered = run(
        deploy_python, "-m", "yizhi", "fill-mask", str(release / "onnx-int8"), "北京是[MASK]国的首都。", "--json"
    )
    assert answered.returncode == 0, answered.stderr


@pytest.mark.slow
def test_what_is_not_installed_is_not_run(release, deploy_python):
    everything = run(deploy_python, "-m", "yizhi", "verify", str(release))
    assert everything.returncode != 0
    assert "not run" in everything.stdout
    assert "pip install 'yizhi[pytorch]'" in everything.stdout
    assert "2 of 3 passed" in everything.stdout
    signed = run(deploy_python, "-m", "yizhi", "verify", str(release), "--public-key", "key.pub")
    assert signed.returncode == 2
    assert "pip install 'yizhi[release]'" in signed.stderr
    altered = release / "onnx" / "vocab.txt"
    content = altered.read_bytes()
    altered.write_bytes(content.replace("国".encode(), "囯".encode()))
    try:
        damaged = run(deploy_python, "-m", "yizhi", "verify", str(release), "--target", "onnx")
        assert damaged.returncode == 1
        assert "vocab.txt: expected sha256" in damaged.stdout
    finally:
        altered.write_bytes(content)
