"""The web's layout: models/NAME in the form of transformers.js and, for fill-mask, a page that needs no network.

transformers.js (https://huggingface.co/docs/transformers.js) looks for `onnx/model.onnx` and, quantized,
`onnx/model_quantized.onnx`, each with its weights beside it under the same name and `_data`.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from yizhi.converters.onnx_files import WEIGHT_FILE, graph_file
from yizhi.converters.targets import TARGETS
from yizhi.errors import CheckFailed, InputError, show
from yizhi.packaging.order import Order
from yizhi.packaging.web_tokenizer import adapt_tokenizer, find_wrong_texts
from yizhi.parity.answers import COARSE_SCORE, SCORE
from yizhi.release.artifact import Artifact
from yizhi.runtimes.onnxruntime_web import FILES, ONNXRUNTIME_WEB
from yizhi.runtimes.tasks import FILL_MASK
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.json_files import to_json
from yizhi.storage.npm import NpmPackage, find_tarball, read_files

START = "python3 -m http.server -b 127.0.0.1 -d {package} 8000  # http://127.0.0.1:8000/"
TOKENIZERS = NpmPackage(
    "@huggingface/tokenizers",
    "0.2.0",
    "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
)
_TOKENIZERS_FILES = ("LICENSE", "dist/tokenizers.min.mjs")
# How transformers.js names a graph, by precision; the quantized one is its default in a browser, and the page's.
_GRAPHS = {"int8": "model_quantized.onnx", "fp32": "model.onnx"}
_MOST_BYTES = 2**31 - 1  # of one buffer, and of one file that a browser gives whole
_PAGE = Path(__file__).with_name("web_page")
# The page of `yizhi serve` looks the same: what the two share lies there.
_SERVED_PAGE = Path(__file__).parents[1] / "serving" / "static"
_SHARED = ("elements.js", "icon.svg", "language.js", "style.css")
_LICENCE = "LICENSE.txt"


def write(folder: Path, order: Order) -> list[dict[str, Any]]:
    """One model, in both precisions if the release has them. Raises InputError for a model that a browser cannot hold.

    Raises MissingFramework if onnx is not installed, and NotRun if npm's packages cannot be downloaded.
    """
    TARGETS["onnx"].load_runtime(in_browser=True)
    too_large = [
        f"{artifact.target}: expected weights of less than 2 GiB: a browser takes them in one piece; found {size:,} B"
        for artifact in order.artifacts
        if (size := artifact.description["files"][WEIGHT_FILE]["size"]) > _MOST_BYTES
    ]
    if too_large:
        raise InputError("package", too_large)
    base = f"models/{order.name}"
    (folder / base / "onnx").mkdir(parents=True)
    _write_settings(folder / base, order)
    written = [_write_model(folder, base, artifact) for artifact in order.artifacts]
    if order.artifacts[0].description["task"] == FILL_MASK:
        _write_page(folder, base, order)
    return written


def _write_settings(place: Path, order: Order) -> None:
    """config.json, which says where the weights are, and the tokenizer's files."""
    artifacts, first = order.artifacts, order.artifacts[0]
    config = json.loads(_read_released(first, "config.json"))
    names = [_GRAPHS[artifact.description["precision"]] for artifact in artifacts]
    settings: dict[str, Any] = {"use_external_data_format": dict.fromkeys(names, 1)}
    if len(artifacts) == 1:  # else a browser takes the quantized one, and Node the other
        settings["dtype"] = {"int8": "q8", "fp32": "fp32"}[first.description["precision"]]
    (place / "config.json").write_text(to_json({**config, "transformers.js_config": settings}), encoding="utf-8")
    released = json.loads(_read_released(first, "tokenizer.json"))
    kind = released["model"]["type"]
    if kind != "WordPiece":  # of a precompiled normaliser JavaScript's library makes another
        raise InputError(
            "package", f"tokenizer.json: expected WordPiece; found {kind}, for which JavaScript's ids are not proven"
        )
    tokenizer = adapt_tokenizer(released)
    if wrong := find_wrong_texts(tokenizer, order.golden.text.cases):
        faults = [f"tokenizer.json: adapted to JavaScript, it reads otherwise: {show(text)}" for text in wrong]
        raise CheckFailed("\n".join(["package:", *(f"  - {fault}" for fault in faults)]))
    (place / "tokenizer.json").write_text(to_json(tokenizer), encoding="utf-8")
    (place / "tokenizer_config.json").write_bytes(_read_released(first, "tokenizer_config.json"))


def _write_model(folder: Path, base: str, artifact: Artifact) -> dict[str, Any]:
    from yizhi.runtimes.web_graph import adapt_graph  # needs onnx

    precision = artifact.description["precision"]
    graph = f"{base}/onnx/{_GRAPHS[precision]}"
    weights = f"{graph}_data"
    released = _read_released(artifact, graph_file("serving_default"))
    (folder / graph).write_bytes(adapt_graph(released, precision, Path(weights).name))
    shutil.copyfile(artifact.folder / WEIGHT_FILE, folder / weights)
    return {
        "name": base.rpartition("/")[2],
        "target": artifact.target,
        "signatures": ["serving_default"],
        "copied": {weights: WEIGHT_FILE},
    }


def _write_page(folder: Path, base: str, order: Order) -> None:
    """index.html and what it loads: its own files, those of npm's packages with their licences, and page.json."""
    shutil.copyfile(_PAGE / "index.html", folder / "index.html")
    (folder / "page").mkdir()
    for path in (*_PAGE.glob("*.js"), *(_SERVED_PAGE / name for name in _SHARED)):
        shutil.copyfile(path, folder / "page" / path.name)
    libraries = {"onnxruntime-web": (ONNXRUNTIME_WEB, FILES), "tokenizers": (TOKENIZERS, _TOKENIZERS_FILES)}
    for name, (package, files) in libraries.items():
        (folder / name).mkdir()
        for file, data in read_files(find_tarball(package, order.npm_folder), files).items():
            (folder / name / (_LICENCE if file == "LICENSE" else Path(file).name)).write_bytes(data)
    # The tarball says MIT in its package.json and has no copy of it.
    shutil.copyfile(_PAGE / "onnxruntime-web.LICENSE.txt", folder / "onnxruntime-web" / _LICENCE)
    (folder / "page.json").write_text(to_json(_describe_page(folder, base, order)), encoding="utf-8")


def _describe_page(folder: Path, base: str, order: Order) -> dict[str, Any]:
    """The files of the page, and the ids and answers of the release's texts that it must give before it answers."""
    by_precision = {artifact.description["precision"]: artifact for artifact in order.artifacts}
    tokenizer = Tokenizer.open(order.artifacts[0].folder)
    models = []
    for precision, name in _GRAPHS.items():
        if precision in by_precision:
            paths = {"graph": f"{base}/onnx/{name}", "weights": f"{base}/onnx/{name}_data"}
            sizes = {path: (folder / path).stat().st_size for path in paths.values()}
            files = {key: {"path": path, "bytes": sizes[path]} for key, path in paths.items()}
            models.append(
                {
                    "target": by_precision[precision].target,
                    "precision": precision,
                    **files,
                    "bytes": sum(sizes.values()),
                    "score": SCORE.get(precision, COARSE_SCORE),
                }
            )
    text = order.golden.text
    return {
        "name": order.name,
        "tokenizer": f"{base}/tokenizer.json",
        "tokenizer_config": f"{base}/tokenizer_config.json",
        "mask": {"id": tokenizer.mask_id, "token": tokenizer.vocab[tokenizer.mask_id]},
        "max_tokens": tokenizer.max_length,
        "models": models,
        "texts": [{"text": case.text, "ids": case.ids} for case in text.cases],
        "answers": [
            {"text": answer.text[0], "masks": [dict(said.scores) for said in answer.said]} for answer in text.answers
        ],
    }


def _read_released(artifact: Artifact, name: str) -> bytes:
    """A file's bytes. Raises CheckFailed if they differ from the verified file: a network disk may change meanwhile."""
    data = (artifact.folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != artifact.description["files"][name]["sha256"]:
        raise CheckFailed(f"package:\n  - {artifact.target}/{name}: differs from the release's")
    return data
