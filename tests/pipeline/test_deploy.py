"""The machine that runs ONNX: onnxruntime, tokenizers, safetensors, numpy and rich; no torch, onnx or scipy.

What is installed there is the wheel, beside folders of a stranger that are called as ours are at the root.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DECOYS = ("converters", "runtimes", "training", "parity_tests", "tests", "benchmarks")
ABSENT = ("torch", "onnx", "scipy", "tensorflow", "jax", "flax", "transformers", "jsonschema")


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    checkpoint = write_variant(folder / "checkpoint", "bert")
    targets = ("--target", "pytorch", "--target", "onnx", "--target", "onnx-int8")
    assert main(["export", str(checkpoint), "--out", str(folder / "release"), *targets]) == 0
    return folder / "release"


def pip(python: str | Path, *arguments: str | Path) -> None:
    """Run pip; skip where it cannot reach an index."""
    command = [python, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot {' '.join(map(str, arguments))} here: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, since a build leaves its files beside the sources.
    ignored = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info")
    source = shutil.copytree(ROOT, folder / "source", ignore=ignored, symlinks=True)
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, source)
    return next(folder.glob("yizhi-*.whl"))


@pytest.fixture(scope="module")
def deploy_python(wheel) -> Path:
    """The interpreter of a fresh environment with the wheel and what `yizhi[onnx]` needs."""
    folder = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip(python, "install", "--constraint", ROOT / "constraints.txt", f"{wheel}[onnx]")
    return python


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Away from this checkout, in a folder with a stranger's packages, which `-m` and `-c` look into first."""
    folder = python.parents[2] / "elsewhere"
    for name in DECOYS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(f'raise ImportError("a stranger\'s {name}")\n')
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([python, *arguments], capture_output=True, text=True, check=False, cwd=folder, env=clean)


def test_the_wheel_holds_yizhi_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        top_level = archive.read(next(name for name in archive.namelist() if name.endswith("top_level.txt")))
    assert top_level.split() == [b"yizhi"]
    assert {name.partition("/")[0] for name in names} == {"yizhi"}
    assert not [name for name in names if "test" in Path(name).stem or Path(name).stem == "mutation_table"]
    # All that lies in the package, with the rooms that are links: code, schemas, catalogues, texts.
    ours = {
        (Path("yizhi") / room / path.relative_to(ROOT / "yizhi" / room)).as_posix()
        for room in ("", "converters", "runtimes", "training")
        for path in (ROOT / "yizhi" / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == ours
    assert {Path(name).suffix for name in ours} >= {".py", ".css", ".json", ".toml", ".tsv", ".txt"}
    assert "yizhi/py.typed" in ours


def test_a_strangers_folders_are_not_taken_for_ours(deploy_python):
    told = run(deploy_python, "-m", "yizhi", "--version")
    assert (told.returncode, told.stdout.split()[0]) == (0, "yizhi"), told.stderr
    imported = run(deploy_python, "-c", "from yizhi import FillMask; print(FillMask.__module__)")
    assert imported.stdout.strip() == "yizhi.runtimes.fill_mask", imported.stderr
    decoy = run(deploy_python, "-c", "import runtimes")
    assert "a stranger's runtimes" in decoy.stderr


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


def test_what_is_not_installed_is_not_run(release, deploy_python):
    everything = run(deploy_python, "-m", "yizhi", "verify", str(release))
    assert everything.returncode == 3
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
