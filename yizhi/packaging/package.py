"""`yizhi package`: a release's artifacts in a model server's layout, whole or absent, with a manifest."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yizhi.errors import CheckFailed, InputError
from yizhi.packaging import tf_serving, triton, web
from yizhi.packaging.clients import write_readme
from yizhi.packaging.order import Order
from yizhi.parity.golden import Golden
from yizhi.release.artifact import Artifact
from yizhi.release.manifest import GOLDEN, MANIFEST, find_altered_release, read_manifest
from yizhi.storage.digests import describe_folder, sha256_of_file
from yizhi.storage.folders import fsync, new_folder, write_whole
from yizhi.storage.json_files import to_json

PACKAGE = "package.json"
SCHEMA_VERSION = 1
# What a client needs to turn text into ids. In a folder of their own: a server takes every folder beside its
# models for a model.
TOKENIZER = (
    *("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "sentencepiece.bpe.model"),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Server:
    """A model server, or a browser.

    targets: what it can run. write: puts the models below a folder and returns a description of each.
    start: the command that serves the finished package. takes: its own parameters of `package`, beyond the common ones.
    tokenizer: the folder of its clients' files; None if `write` writes them.
    """

    targets: tuple[str, ...]
    write: Callable[[Path, Order], list[dict[str, Any]]]
    start: str
    takes: tuple[str, ...]
    tokenizer: str | None = "tokenizer"


SERVERS: Mapping[str, Server] = {
    "triton": Server(("onnx", "onnx-int8"), triton.write, triton.START, takes=("signatures", "version")),
    # A SavedModel is served with all its signatures.
    "tf-serving": Server(("tensorflow",), tf_serving.write, tf_serving.START, takes=("version",)),
    "web": Server(("onnx", "onnx-int8"), web.write, web.START, takes=("npm_folder",), tokenizer=None),
}
_DEFAULT = ["serving_default"]


def package(
    release: Path,
    server: str,
    out: Path,
    targets: Sequence[str] | None = None,
    signatures: Sequence[str] | None = None,
    name: str | None = None,
    version: int = 1,
    npm_folder: Path | None = None,
) -> dict[str, Any]:
    """Write the folder that a server expects and return its manifest, `package.json`.

    targets: None for all of the release that the server can run. signatures: for Triton, a model each; None for
    `serving_default`. name: the models' name; None for the release's. version: the models' version.
    npm_folder: for the web, the folder of npm's tarballs; None for a cache, to which npm downloads them.
    Raises CheckFailed if a file of the release differs from its manifest. Raises InputError, before anything is
    written, for a request that the release or the server cannot meet.
    """
    manifest = read_manifest(release)
    altered = find_altered_release(release, manifest)
    if altered:
        lines = [f"{part}/{fault}" for part, faults in altered.items() for fault in faults]
        raise CheckFailed("\n".join([f"{release}: is not as its {MANIFEST} says:", *(f"  - {line}" for line in lines)]))
    name = name or release.resolve().name
    artifacts = _choose(release, manifest, server, targets)
    signatures = list(dict.fromkeys(signatures or _DEFAULT))
    given = {"signatures": signatures != _DEFAULT, "version": version != 1, "npm_folder": npm_folder is not None}
    stray = [one for one, is_given in given.items() if is_given and one not in SERVERS[server].takes]
    faults = [f"`{one}`: {server} takes none; leave it out" for one in stray]
    if any(artifact.reads_images for artifact in artifacts):
        faults.append(f"the release has an image stream, which a package for {server} cannot hold yet")
    _check(name, artifacts, signatures, faults)
    if out.resolve().is_relative_to(release.resolve()):
        raise InputError(
            "`out`", "expected a folder outside the release, because the release would differ from its signature"
        )
    order = Order(artifacts, Golden.read(release / GOLDEN), name, version, signatures, npm_folder)
    with new_folder(out, replaces=(PACKAGE,)) as folder:
        models = SERVERS[server].write(folder, order)
        if tokenizer := SERVERS[server].tokenizer:
            _copy_all(artifacts[0].folder, folder / tokenizer, TOKENIZER)
            write_readme(folder, server, SERVERS[server].start, models, folder / tokenizer)
        files = describe_folder(folder)
        _compare(files, models, artifacts)
        described = {
            "schema_version": SCHEMA_VERSION,
            "server": server,
            "release": {MANIFEST: sha256_of_file(release / MANIFEST)},
            "models": models,
            "files": files,
        }
        for path in folder.rglob("*"):
            fsync(path)
        write_whole(folder / PACKAGE, to_json(described))
    return described


def _choose(release: Path, manifest: dict[str, Any], server: str, targets: Sequence[str] | None) -> list[Artifact]:
    can = SERVERS[server].targets
    wrong = [target for target in targets or () if target not in can]
    if wrong:
        raise InputError("`targets`", f"{server} runs {', '.join(can)}; found {', '.join(wrong)}")
    wanted = list(dict.fromkeys(targets)) if targets else [target for target in can if target in manifest["artifacts"]]
    missing = [target for target in wanted if target not in manifest["artifacts"]]
    if missing or not wanted:
        has = ", ".join(manifest["artifacts"])
        raise InputError(release, f"has no {', '.join(missing) or ' and no '.join(can)}; it has {has}")
    return [Artifact.read(release / target) for target in wanted]


def _check(name: str, artifacts: Sequence[Artifact], signatures: Sequence[str], faults: list[str]) -> None:
    if not _NAME.fullmatch(name):
        faults.append(f"`name`: expected letters, digits, '.', '_' and '-'; found {json.dumps(name)}")
    known = artifacts[0].signatures
    faults += [f"`signatures`: expected {', '.join(known)}; found {one!r}" for one in signatures if one not in known]
    if faults:
        raise InputError("package", faults)


def _copy_all(source: Path, target: Path, names: Sequence[str]) -> None:
    target.mkdir(parents=True)
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def _compare(files: Mapping[str, Any], models: Sequence[Mapping[str, Any]], artifacts: Sequence[Artifact]) -> None:
    """Compare copies with verified files: a release on a network disk may change meanwhile."""
    released = {artifact.target: artifact.description["files"] for artifact in artifacts}
    faults = [
        f"{place}: differs from the release's {model['target']}/{source}"
        for model in models
        for place, source in model["copied"].items()
        if files[place] != released[model["target"]][source]
    ]
    if faults:
        raise CheckFailed("\n".join(["package:", *(f"  - {fault}" for fault in faults)]))
