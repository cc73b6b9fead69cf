"""Any target can be served; without the server's packages, the command says what to install."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.artifacts import EVERY_TARGET
from tests.imports import ROOT
from tests.serving.running import run_models
from yizhi.runtimes import Embedder, FillMask

TEXTS = ["北", "北京", "中国的首都", "北京是中国的首都" * 5]


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_any_target_is_served_to_many_callers(open_variant, target):
    runtime = open_variant("bert", target)
    vectors = Embedder(runtime, normalize=True)(TEXTS)
    filled = [[(one.token, one.score) for one in FillMask(runtime)(text + "[MASK]")[0]] for text in TEXTS]
    with run_models({"words": runtime}, workers=2) as address, httpx.Client(base_url=address, timeout=60) as client:

        def ask(index):
            vector = client.post("/embed", json={"inputs": TEXTS[index]}).json()[0]
            masks = client.post("/fill-mask", json={"inputs": TEXTS[index] + "[MASK]"}).json()
            return index, vector, [(one["token"], one["score"]) for one in masks[0]]

        with ThreadPoolExecutor(6) as pool:
            for index, vector, tokens in pool.map(ask, [*range(len(TEXTS))] * 4):
                np.testing.assert_allclose(vector, vectors[index], atol=1e-5)
                assert [token for token, _ in tokens] == [token for token, _ in filled[index]]
                np.testing.assert_allclose([s for _, s in tokens], [s for _, s in filled[index]], atol=1e-5)


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "orjson", "pydantic", "prometheus_client"])
def test_without_the_servers_packages_the_command_says_what_to_install(package):
    program = f"import sys; sys.modules['{package}'] = None; from yizhi.cli import main; sys.exit(main(['serve', 'x']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"yizhi: serving:\n  - needs {package}: pip install 'yizhi[serve]'\n"
