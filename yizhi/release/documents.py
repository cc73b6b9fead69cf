"""Documents of a release for people who did not build it: cards, a bill of materials and its provenance.

They hold no times, hosts or random numbers. So equal releases have equal documents.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yizhi import __version__
from yizhi.release.artifact import CARD, Artifact
from yizhi.release.cards import PIPELINES, write_card, write_release_card
from yizhi.release.manifest import BILL_OF_MATERIALS, GOLDEN, PROVENANCE
from yizhi.storage.digests import describe_folder
from yizhi.storage.folders import write_whole
from yizhi.storage.json_files import to_json

BUILDER = "https://pypi.org/project/yizhi/"
BUILD_TYPE = "urn:yizhi:export:1"


def write_documents(
    release: Path,
    source: dict[str, Any],
    artifacts: list[Artifact],
    parity: Mapping[str, dict[str, Any]],
    prompt: str | None = None,
) -> None:
    """Write every card, `bom.cdx.json` and `provenance.json` for these artifacts of one checkpoint.

    parity: target -> its verdict, as in the manifest. prompt: as in `write_card`.
    """
    files = _files(release, artifacts)
    for artifact in artifacts:
        write_whole(artifact.folder / CARD, write_card(artifact, source, parity[artifact.target], prompt))
    write_whole(release / CARD, write_release_card(artifacts, source, parity))
    write_whole(release / BILL_OF_MATERIALS, to_json(describe_materials(source, artifacts, files)))
    write_whole(release / PROVENANCE, to_json(describe_provenance(source, artifacts, files)))


def describe_provenance(
    source: Mapping[str, Any], artifacts: Iterable[Artifact], files: Mapping[str, str]
) -> dict[str, Any]:
    """An in-toto Statement v1 with SLSA's provenance predicate v1: the files, their checkpoint, and the code.

    https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.0/provenance.
    """
    artifacts = list(artifacts)
    code = {artifact.description["made_with"]["converters"] for artifact in artifacts}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "targets": sorted(artifact.target for artifact in artifacts),
                    **({"checkpoint": source["origin"]} if "origin" in source else {}),
                },
                "internalParameters": {"judged_with": source["judged_with"]},
                "resolvedDependencies": [
                    *({"name": name, "digest": {"sha256": digest}} for name, digest in sorted(source["files"].items())),
                    *({"name": "yizhi/converters", "digest": {"sha256": digest}} for digest in sorted(code)),
                    *({"uri": _package_url(name, version)} for name, version in _packages(artifacts)),
                ],
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {"yizhi": __version__}}},
        },
    }


def describe_materials(
    source: Mapping[str, Any], artifacts: Iterable[Artifact], files: Mapping[str, str]
) -> dict[str, Any]:
    """A CycloneDX 1.6 bill of materials: the model with its card, all files, the checkpoint's files, the packages."""
    artifacts = list(artifacts)
    whole = hashlib.sha256(to_json(files).encode()).hexdigest()
    origin = source.get("origin", {})
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": origin.get("hub") or source["model_type"],
        "version": origin.get("revision") or whole[:16],
        "modelCard": {
            "modelParameters": {
                "task": PIPELINES.get(source["task"], source["task"]),
                "architectureFamily": "transformer encoder",
                "modelArchitecture": source["model_type"],
                "inputs": [{"format": "token ids, int32 or int64"}],
                "outputs": [{"format": name} for name in sorted(artifacts[0].description["outputs"])],
            }
        },
        "components": [_file("release", *item) for item in sorted(files.items())],
    }
    packages = [
        {
            "type": "library",
            "bom-ref": _package_url(package, version),
            "name": package,
            "version": version,
            "purl": _package_url(package, version),
        }
        for package, version in _packages(artifacts)
    ]
    inputs = [_file("checkpoint", *item) for item in sorted(source["files"].items())]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{whole[:8]}-{whole[8:12]}-8{whole[13:16]}-8{whole[17:20]}-{whole[20:32]}",
        "version": 1,
        "metadata": {"component": model},
        "components": [*inputs, *packages],
        "dependencies": [{"ref": "model", "dependsOn": sorted(item["bom-ref"] for item in [*inputs, *packages])}],
    }


def _files(release: Path, artifacts: Iterable[Artifact]) -> dict[str, str]:
    """Path in the release -> sha256, for every file of the artifacts and of golden."""
    golden = {f"{GOLDEN}/{name}": entry["sha256"] for name, entry in describe_folder(release / GOLDEN).items()}
    return golden | {
        f"{artifact.target}/{name}": entry["sha256"]
        for artifact in artifacts
        for name, entry in artifact.description["files"].items()
    }


def _file(place: str, name: str, digest: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"{place}/{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _packages(artifacts: Iterable[Artifact]) -> list[tuple[str, str]]:
    made_with = (artifact.description["made_with"].items() for artifact in artifacts)
    return sorted({item for items in made_with for item in items if item[0] != "converters"})


def _package_url(name: str, version: str) -> str:
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
