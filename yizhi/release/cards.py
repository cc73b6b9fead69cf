"""Model cards: the `README.md` of each artifact and of the release, with the YAML header that the hub reads.

https://huggingface.co/docs/hub/model-cards names the header's fields. Unknown fields are left out. A card holds no
time, host or path. Every text that comes from a checkpoint is escaped.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yizhi.errors import printable
from yizhi.release.artifact import Artifact
from yizhi.release.snippets import needs_jieba, write_snippets
from yizhi.storage.json_files import read_json_object, to_json

HOME = "https://pypi.org/project/yizhi/"
MOST_LABELS = 50
# The hub's words (https://huggingface.co/tasks) where ours differ, and its names of libraries and frameworks.
PIPELINES = {"features": "feature-extraction", "replaced-token-detection": "token-classification"}
_LIBRARIES = {"pytorch": "transformers", "tensorflow": "tensorflow", "flax": "flax"}
_LIBRARIES |= dict.fromkeys(("openvino", "openvino-int8"), "openvino")
_LIBRARIES |= dict.fromkeys(("litert", "litert-int8"), "litert")
# The families that transformers 4 has in Flax; 5 has none.
_FLAX_CLASSES = ("bert", "albert", "electra", "roberta", "xlm-roberta", "roformer")
_JIEBA = "- jieba cuts texts into words, which `tokenizer.json` cannot hold: read by itself, it gives other ids."
_F32 = '{"INFERENCE_PRECISION_HINT": "f32"}'
_EXACT = [
    "",
    f"Without `{_F32}`, OpenVINO computes floats in bfloat16 where the processor has it.",
    "sentence-transformers takes the setting so:",
    f'`SentenceTransformer(folder, backend="openvino", model_kwargs={{"ov_config": {_F32}}})`.',
]
_TAGS = {"pytorch": ["pytorch"], "tensorflow": ["tf"], "flax": ["jax"], "onnx": ["onnx"], "openvino": ["openvino"]}
_TAGS |= {"litert": ["tflite"]}
_TAGS |= {f"{name}-int8": [*_TAGS[name], "int8", "quantized"] for name in ("onnx", "openvino", "litert")}


def write_card(
    artifact: Artifact, source: Mapping[str, Any], parity: Mapping[str, Any], prompt: str | None = None
) -> str:
    """An artifact's card. parity: its verdict from the manifest.

    prompt: the text that the checkpoint's authors put before a query, if the checkpoint's own files have none.
    """
    target, description = artifact.target, artifact.description
    prompt = _own_prompt(artifact.folder) or prompt
    jieba = needs_jieba(artifact.folder)
    library = None if artifact.reads_images else _LIBRARIES.get(target, "onnx")  # none has its class
    return "\n".join(
        [
            *_header(source, library, _TAGS.get(target, []), quantized=description["precision"] == "int8"),
            f"# {_name(source)}: {target}",
            "",
            f"This folder is the `{target}` artifact of a release that [Yizhi]({HOME}) made and verified. It loads",
            "without Yizhi, as shown below.",
            "",
            *_origin(source, description),
            "",
            "## Quality",
            "",
            *_describe_quality(parity),
            "",
            "## How to load",
            *_loading(target, description, source["model_type"], jieba, prompt),
            "",
            *_vectors(description.get("pooling"), prompt),
            *_labels(description.get("labels")),
            "## Limits",
            "",
            *_limits(description["precision"]),
            *([_JIEBA] if jieba else []),
            "",
        ]
    )


def write_release_card(artifacts: Iterable[Artifact], source: Mapping[str, Any], parity: Mapping[str, Any]) -> str:
    """The release's card. parity: target -> its verdict."""
    artifacts = list(artifacts)
    tags = [tag for artifact in artifacts for tag in _TAGS.get(artifact.target, [])]
    rows = [
        f"| [{one.target}]({one.target}/README.md) | {one.size() / 1e6:.1f} MB | {_summary(parity[one.target])} |"
        for one in artifacts
    ]
    return "\n".join(
        [
            *_header(source, "yizhi", list(dict.fromkeys(tags)), quantized=False),
            f"# {_name(source)}: a release",
            "",
            f"One checkpoint, exported by [Yizhi]({HOME}) and compared with one float64 computation. Each folder is",
            "whole: take the one that you need. Its `README.md` says how to load it without Yizhi.",
            "",
            "| folder | size | against float64 |",
            "|---|---|---|",
            *rows,
            "",
            *_origin(source, {"made_with": {}}),
            "",
            "## How to check it",
            "",
            "`manifest.json` holds every file's sha256. `verify` compares them, and runs every artifact again:",
            "",
            "```",
            "pip install 'yizhi[all]'",
            "yizhi verify .",
            "```",
            "",
            "## Limits",
            "",
            *_limits("int8" if any(one.description["precision"] == "int8" for one in artifacts) else "fp32"),
            "",
        ]
    )


def _header(source: Mapping[str, Any], library: str | None, tags: list[str], quantized: bool) -> list[str]:
    base = source.get("base_model")
    fields = {
        "language": source.get("languages"),
        "license": source.get("license"),
        "base_model": base,
        "base_model_relation": "quantized" if base and quantized else None,
        "library_name": library,
        "pipeline_tag": PIPELINES.get(source["task"], source["task"]),
        "tags": ["yizhi", source["model_type"], *tags],
    }
    # JSON's strings and lists are YAML's: nothing in a value can end its line or begin another field.
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items() if value]
    return ["---", *lines, "---", ""]


def _name(source: Mapping[str, Any]) -> str:
    origin = source.get("origin", {})
    return _code(origin.get("hub") or source.get("known") or source["model_type"])


def _origin(source: Mapping[str, Any], description: Mapping[str, Any]) -> list[str]:
    origin, made_with = source.get("origin", {}), description["made_with"]
    versions = ", ".join(f"{name} {made_with[name]}" for name in sorted(made_with) if name != "converters")
    hub = f", {_code(origin['hub'])} at {_code(origin['revision'])}" if "hub" in origin else ""
    facts = {
        "Made from": f"a `{source['model_type']}` checkpoint{hub}",
        "Known as": _code(source["known"]) if "known" in source else None,
        "Base model": _code(source["base_model"]) if "base_model" in source else None,
        "Licence": f"{_code(source['license'])}, as stated for the checkpoint" if "license" in source else "unknown",
        "Task": f"`{source['task']}`",
        "Made with": versions or None,
    }
    digests = [f"| {_code(name)} | `{digest}` |" for name, digest in sorted(source["files"].items())]
    return [
        "## How it was made",
        "",
        *(f"- {name}: {fact}" for name, fact in facts.items() if fact),
        "",
        "| file of the checkpoint | sha256 |",
        "|---|---|",
        *digests,
    ]


def _describe_quality(parity: Mapping[str, Any]) -> list[str]:
    settings = "int8" if parity["cosine"] else "float32"
    lines = [f"Measured on {parity['device']} in {settings}, against a float64 computation of the checkpoint:", ""]
    lines += ["| measure | value |", "|---|---|"]
    if parity["cosine"]:
        lines.append(f"| lowest cosine of a vector | {min(parity['cosine'].values()):.4f} |")
    else:
        lines += [f"| largest error of `{name}` | {found['error']:.1e} |" for name, found in _worst(parity)]
    if quality := parity["quality"]:
        if quality["top1"] is not None:
            lines.append(f"| same first token (top-1) | {quality['top1']:.1%} |")
        lines += [
            f"| same first five tokens (top-5) | {quality['top5']:.1%} |",
            f"| mean KL divergence of the predicted tokens | {quality['kl_mean']:.1e} nats |",
        ]
    if parity["label_error"] is not None:
        lines.append(f"| error of the logits, relative | {parity['label_error']:.1%} |")
    lines.append("")
    return [*lines, "These are numbers of the conversion. The model's own quality on a task was not measured here."]


def _worst(parity: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The outputs that a user reads. Inner layers are left out."""
    return [(name, found) for name, found in sorted(parity["worst"].items()) if "hidden_states." not in name]


def _summary(parity: Mapping[str, Any]) -> str:
    if parity["cosine"]:
        return f"lowest cosine {min(parity['cosine'].values()):.4f}"
    return ", ".join(f"`{name}` within {found['error']:.1e}" for name, found in _worst(parity))


def _own_prompt(folder: Path) -> str | None:
    """The prompt before a query, by its name in sentence-transformers."""
    settings = folder / "config_sentence_transformers.json"
    prompts = read_json_object(settings).get("prompts", {}) if settings.exists() else {}
    found: str | None = prompts.get("query")
    return found


def _vectors(pooling: Mapping[str, Any] | None, prompt: str | None) -> list[str]:
    if pooling is None:
        return []
    output = "term_weights" if pooling["mode"] == "splade" else "sentence_embedding"
    made = [pooling["mode"], *("dense" for _ in pooling.get("dense", ()))]
    made += [f"{pooling['dimensions']} dimensions"] if pooling.get("dimensions") else []
    made += ["normalized"] if pooling["normalize"] else []
    told = [f"`{output}` is a text's vector: pooling {', '.join(made)}."]
    told += [f"Before a query, and before no passage, stands {_code(prompt)}."] if prompt else []
    return ["## Vectors", "", *told, ""]


def _loading(
    target: str, description: Mapping[str, Any], model_type: str, jieba: bool, prompt: str | None
) -> list[str]:
    lines = []
    for tool, needs, code in write_snippets(target, description, jieba, prompt, model_type):
        lines += [
            "",
            f"With {tool} (`pip install {shlex.join(needs.split())}`):",
            "",
            "```python",
            *code.splitlines(),
            "```",
        ]
    if target.startswith("openvino"):
        lines += _EXACT
    if target == "flax" and model_type in _FLAX_CLASSES:
        lines += ["", "transformers 4's Flax classes load this folder too: `FlaxAutoModel.from_pretrained(folder)`."]
    return lines


def _labels(labels: list[str] | None) -> list[str]:
    if not labels:
        return []
    more = [f"and {len(labels) - MOST_LABELS} more, in `config.json`"] if len(labels) > MOST_LABELS else []
    # JSON in a fence: a label can end neither its line nor the fence.
    return ["## Labels", "", "```json", *printable(to_json(labels[:MOST_LABELS])).splitlines(), "```", *more, ""]


def _limits(precision: str) -> list[str]:
    lines = [
        "- What the checkpoint learned, its errors and its biases are in every artifact alike.",
        "- The tokenizer's files in the folder belong to the weights. Another tokenizer gives other answers.",
    ]
    if precision == "int8":
        lines.append("- int8 answers are near those of float32, not equal to them: measure on your own texts.")
    return lines


def _code(text: str) -> str:
    """A code span that is safe for any text: no backtick, line end, table bar or terminal escape is left in it."""
    safe = printable(text.replace("\n", " ").replace("\r", " "))
    return "`" + safe.replace("`", "'").replace("|", "¦") + "`"
