"""`yizhi inspect`: the description of a checkpoint, an artifact or a release."""

import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console

from yizhi.catalogue.identify import Identity, describe_identity, identify
from yizhi.errors import printable
from yizhi.model.config import EncoderConfig
from yizhi.model.image_config import ImageConfig
from yizhi.model.label_heads import describe_labels
from yizhi.model.spec import SENTENCE_EMBEDDING, SPLADE, TERM_WEIGHTS, ZERO_AT_PADDING, MaskedLMHead, Pooling
from yizhi.parity.record import VerificationRecord
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.hub import resolve_checkpoint
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.release.manifest import is_meant_as_release, read_manifest
from yizhi.reports.plain_table import PlainTable
from yizhi.reports.tables import describe_errors, format_bytes
from yizhi.storage.codec import from_plain, to_plain

# Entries of a list that are printed: a classifier may have thousands of labels. `--json` has them all.
_LISTED = 40
# Keys under which a pooling is told.
_POOLINGS = ("pooling", SENTENCE_EMBEDDING, TERM_WEIGHTS)


def describe(path: str, revision: str | None = None, ignored_files: Collection[str] = ()) -> dict[str, Any]:
    """Plain values for JSON. ignored_files: as in `Checkpoint.open`. Raises InputError for any other path."""
    folder = Path(path)
    if is_meant_as_release(folder):
        return {"kind": "release", **read_manifest(folder)}
    if (folder / DESCRIPTION).exists():
        return {"kind": "artifact", **Artifact.read(folder).description}
    with Checkpoint.open(resolve_checkpoint(path, revision).path, ignored_files=ignored_files) as checkpoint:
        config, parameters, digest = checkpoint.config, checkpoint.parameters(), checkpoint.digest()
        identity = identify(checkpoint, digest)
        return {
            "kind": "checkpoint",
            "known_as": identity.as_dict() if identity else None,
            "model_type": config.model_type,
            "task": checkpoint.spec.task,
            **describe_labels(checkpoint.spec),
            "parameters": sum(math.prod(parameter.shape) for parameter in parameters),
            "tensors": len(parameters),
            "stored_as": checkpoint.dtypes,
            "layers": config.depth,
            "hidden_size": config.hidden_size,
            "attention_heads": config.num_attention_heads,
            "vocab_size": config.vocab_size,
            "positions": config.longest,
            "hidden_act": config.hidden_act,
            "pooler": checkpoint.spec.pooler is not None,
            **({"image": _describe_image(config.image, config)} if config.image else {}),
            "adapter": config.adapter and config.adapter.name,
            "decoder": "tied"
            if checkpoint.spec.tied
            else "untied"
            if isinstance(checkpoint.spec.head, MaskedLMHead)
            else None,
            "ignored": checkpoint.ignored,
            "files": {**checkpoint.file_uses, **_describe_module_files(checkpoint)},
            "text": checkpoint.text.describe(),
            **_describe_pooling(checkpoint),
            "notes": checkpoint.notes(),
            "sha256": digest,
        }


def _describe_image(image: ImageConfig, config: EncoderConfig) -> str:
    """An image stream in words."""
    return (
        f"regions of {image.features} numbers, {image.classes} classes; {config.num_hidden_layers} shared layers, "
        f"{image.layers} of its own with {image.heads} heads"
    )


def _describe_pooling(checkpoint: Checkpoint) -> dict[str, Any]:
    """How the folder itself makes a text's vector, where it says so, and what its heads give for each token."""
    spec = checkpoint.spec
    given = spec.signatures()["serving_default"]
    found: dict[str, Any] = {name: list(spec.output_axes(name)) for name in ZERO_AT_PADDING if name in given}
    if spec.pooling:
        found[TERM_WEIGHTS if spec.pooling.mode == SPLADE else SENTENCE_EMBEDDING] = to_plain(spec.pooling)
    return found


def _describe_module_files(checkpoint: Checkpoint) -> dict[str, str]:
    """The files in the folders of sentence-transformers' modules."""
    files = checkpoint.sentence.files if checkpoint.sentence else ()
    return {name: "read: part of how a text's vector is made" for name in files if "/" in name}


def print_description(console: Console, description: dict[str, Any]) -> None:
    """The description as a short table; nested values one level deep."""
    table = PlainTable(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    if description["kind"] == "release":
        description = _describe_release(description)
    elif description["kind"] == "artifact":
        description = _describe_artifact(description)
    for key, value in description.items():
        if key == "known_as":
            value = describe_identity(_identity(value)) if value else "none of the known checkpoints (yizhi models)"
        elif key in _POOLINGS and isinstance(value, dict):
            value = str(from_plain(Pooling, value))
        elif isinstance(value, dict):
            value = "\n".join(f"{name}: {_short(item)}" for name, item in value.items()) or "none"
        else:
            value = _short(value)
        table.add_row(key.replace("_", " "), printable(value))
    console.print(table, markup=False)


def _describe_release(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a person asks of a release first; `json` gives the manifest."""
    source = manifest["source"]
    return {
        "kind": "release",
        "model_type": source["model_type"],
        "task": source["task"],
        **({"known checkpoint": source["known"]} if source.get("known") else {}),
        "made_from": source["files"],
        "artifacts": {name: _describe_target(entry) for name, entry in manifest["artifacts"].items()},
        "documents": [*manifest["documents"]],
        "sha256": manifest["sha256"],
    }


def _describe_artifact(description: dict[str, Any]) -> dict[str, Any]:
    """The same in fewer words: sizes of files, and how much is int8; `json` gives every name and place."""
    files = {name: f"{file['size']:,} bytes" for name, file in description["files"].items()}
    found = {**description, "files": files}
    if quantization := description.get("quantization"):
        stored = Counter(place["dtype"] for place in quantization["stored"].values())
        calibration = quantization["calibration"]
        found["quantization"] = {
            "tensors": ", ".join(f"{count} {dtype}" for dtype, count in sorted(stored.items())),
            "outlier channels": f"of {len(quantization['outliers'])} kernels' inputs",
            "found on": f"{calibration['of']}, {calibration['tokens']:,} tokens",
        }
    return found


def _describe_target(entry: dict[str, Any]) -> str:
    verdict = from_plain(VerificationRecord, entry["parity"])
    size = format_bytes(sum(file["size"] for file in entry["files"].values()))
    judged = "passed" if verdict.passed else "did not pass"
    return f"{entry['precision']}, {size}, {judged}: {describe_errors(verdict)}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(str(key) for key in value)
    if isinstance(value, list):
        more = f", … {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        return (", ".join(map(str, value[:_LISTED])) or "none") + more
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def _identity(described: dict[str, Any]) -> Identity:
    return Identity(**{key: value for key, value in described.items() if key != "unaltered"})
