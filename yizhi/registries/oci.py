"""A release in an OCI registry, in the form of the CNCF's ModelPack: a layer per file, unchanged.

It follows github.com/modelpack/model-spec, version 1 of its media types, configuration schema and annotations. A layer
is neither packed nor compressed, so its digest is the file's. Files that two releases share are stored and sent once.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from yizhi.errors import CheckFailed, InputError, show
from yizhi.registries.address import OciAddress
from yizhi.registries.contents import File, is_relative
from yizhi.registries.oci_client import MANIFEST_TYPE, OciClient, digest_of
from yizhi.registries.registry import Remote
from yizhi.release.manifest import GOLDEN

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
LAYER_TYPE = "application/vnd.cncf.model.{}.v1.raw"
PATH = "org.cncf.model.filepath"
MOST_FILES = 10_000
_UNTESTED = "org.cncf.model.file.mediatype.untested"
_TITLE = "org.opencontainers.image.title"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WEIGHTS = re.compile(r".*\.(safetensors|msgpack|onnx|onnx\.data|pb)|.*/variables/variables\..*")
_DOCUMENTS = re.compile(r"(.*/)?README\.md|[^/]*\.json|[^/]*\.sig|report/.*")


class OciRegistry:
    """See `yizhi.registries.registry.Registry`."""

    def __init__(self, address: OciAddress) -> None:
        self._address = address
        self._client = OciClient(address)

    def find(self) -> Remote | None:
        """The manifest at the address, and its layers by path."""
        found = self._client.get_manifest(self._address.reference)
        if found is None:
            return None
        data, digest = found
        if self._address.by_digest and digest != self._address.reference:
            raise CheckFailed(f"{self._address}: the registry gave another manifest, {digest}")
        return Remote(digest, read_layers(data, self._address))

    def fetch(self, remote: Remote, path: str, folder: Path) -> None:
        """As the protocol says."""
        listed = remote.files[path]
        with open(folder / path, "xb") as file:
            fault = self._client.get_blob(f"sha256:{listed.sha256}", listed.size or 0, file)
        if fault:
            raise CheckFailed(f"{self._address}: {path}: {fault}")

    def find_missing(self, files: Sequence[File]) -> list[File]:
        """As the protocol says."""
        there = {file.sha256: self._client.has_blob(f"sha256:{file.sha256}") for file in files}
        return [file for file in files if not there[file.sha256]]

    def push(
        self,
        release: Path,
        manifest: Mapping[str, Any],
        files: Sequence[File],
        before: Remote | None,
        told: Callable[[str], None],
    ) -> str:
        """Blobs first. The last request moves the tag, to a manifest whose blobs all exist."""
        if self._address.by_digest:
            raise InputError(self._address, "expected a tag to push to, such as oci://HOST/NAME:TAG")
        missing = {file.sha256: file for file in self.find_missing(files)}.values()
        for number, file in enumerate(missing, start=1):
            told(f"sending {number}/{len(missing)} {file.path}")
            self._client.put_blob(f"sha256:{file.sha256}", release / file.path)
        config, data = describe(manifest, files)
        if not self._client.has_blob(digest_of(config)):
            self._client.put_blob(digest_of(config), config)
        self._client.put_manifest(self._address.reference, data)
        return digest_of(data)


def describe(manifest: Mapping[str, Any], files: Sequence[File]) -> tuple[bytes, bytes]:
    """ModelPack's configuration and manifest of a release. Equal releases have equal ones, and one digest."""
    source = manifest["source"]
    origin = source.get("origin", {})
    licences = {"licenses": [source["license"]]} if "license" in source else {}
    config = _to_bytes(
        {
            "descriptor": {
                "family": source["model_type"],
                "name": origin.get("hub") or source.get("known") or source["model_type"],
                "version": manifest["sha256"],
                **licences,
            },
            "config": {
                "architecture": "transformer",
                "format": ", ".join(sorted(manifest["artifacts"])),
                "precision": ", ".join(sorted({entry["precision"] for entry in manifest["artifacts"].values()})),
            },
            "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in files]},
        }
    )
    layers = [
        {
            "mediaType": LAYER_TYPE.format(_kind(file.path)),
            "digest": f"sha256:{file.sha256}",
            "size": file.size,
            "annotations": {PATH: file.path, _TITLE: file.path, _UNTESTED: "false"},
        }
        for file in files
    ]
    return config, _to_bytes(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": layers,
        }
    )


def read_layers(data: bytes, subject: object) -> dict[str, File]:
    """Path -> file, of a manifest's layers. Raises InputError, listing every fault, if the manifest is not Yizhi's."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("artifactType") != ARTIFACT_TYPE:
        kind = manifest.get("artifactType") if isinstance(manifest, dict) else None
        raise InputError(subject, f"holds no release: expected artifactType {ARTIFACT_TYPE}; found {show(kind)}")
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > MOST_FILES:
        raise InputError(subject, f"layers: expected a list of at most {MOST_FILES}")
    files: dict[str, File] = {}
    faults = []
    for index, layer in enumerate(layers):
        layer = layer if isinstance(layer, dict) else {}
        annotations = layer.get("annotations")
        path = annotations.get(PATH) if isinstance(annotations, dict) else None
        digest, size = layer.get("digest"), layer.get("size")
        if not isinstance(path, str) or not is_relative(path) or path in files:
            faults.append(f"layers[{index}]: {PATH}: expected a new path inside the release; found {show(path)}")
        elif not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            faults.append(f"layers[{index}]: digest: expected sha256:…; found {show(digest)}")
        elif type(size) is not int or size < 0:
            faults.append(f"layers[{index}]: size: expected bytes; found {show(size)}")
        elif layer.get("mediaType") not in _LAYER_TYPES:
            faults.append(f"layers[{index}]: mediaType: expected a raw file; found {show(layer.get('mediaType'))}")
        else:
            files[path] = File(path, digest.removeprefix("sha256:"), size)
    if faults:
        raise InputError(subject, [*faults[:20], *(["and more"] if len(faults) > 20 else [])])
    return files


def _kind(path: str) -> str:
    if path.startswith(f"{GOLDEN}/"):
        return "dataset"
    if _WEIGHTS.fullmatch(path):
        return "weight"
    return "doc" if _DOCUMENTS.fullmatch(path) else "weight.config"


_LAYER_TYPES = {LAYER_TYPE.format(kind) for kind in ("weight", "weight.config", "doc", "dataset")}


def _to_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
