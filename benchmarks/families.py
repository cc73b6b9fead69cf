"""Every family at its published shape, with random weights, through every target: docs/families.md.

    python -m benchmarks.families                       all of them, one after another: an hour, and 8 GB of disk
    python -m benchmarks.families rbt3 albert_chinese_tiny

What was measured is kept in build/families.json, so that the table can be made in several sittings;
each checkpoint and release is removed before the next.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yizhi.catalogue.catalogue import read_catalogue
from yizhi.converters.targets import TARGETS, find_targets
from yizhi.model.config import EncoderConfig
from yizhi.parity.record import VerificationRecord
from yizhi.pipeline.export import export
from yizhi.pipeline.progress import Progress
from yizhi.pipeline.results import rows_as_dict
from yizhi.pipeline.synthesis import synthesize
from yizhi.reports.tables import describe_errors, format_bytes
from yizhi.storage.codec import from_plain
from yizhi.storage.json_files import to_json

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "build" / "families.json"
TABLE = ROOT / "docs" / "families.md"

# Names in the catalogue, from which the shape is taken; the smallest first.
PUBLISHED = (
    "chinese-electra-small-generator",
    "albert_chinese_tiny",
    "chinese-electra-small-discriminator",
    "chinese-electra-base-generator",
    "rbt3",
    "albert-base-chinese-cluecorpussmall",
    "albert-large-chinese-cluecorpussmall",
    "bge-small-zh-v1.5",
    "chinese-electra-base-discriminator",
    "bert-base-chinese",
    "chinese-roberta-wwm-ext-large",
)
_LITTLE: Mapping[str, Any] = {
    "vocab_size": 21128,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
_INTERBERT = {
    **{"num_hidden_layers": 4, "t_num_hidden_layers": 4, "v_num_hidden_layers": 4, "v_num_attention_heads": 4},
    **{"v_feature_size": 2048, "v_target_size": 1601, "v_hidden_size": 512, "v_intermediate_size": 2048},
}
_QWEN = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "num_key_value_heads": 4, "intermediate_size": 1536}
# Families of which no checkpoint is in the catalogue, or none but a very large one.
IN_LITTLE: Mapping[str, Mapping[str, Any]] = {
    f"{config['model_type']}, 8 × 512": config
    for config in (
        {**_LITTLE, "model_type": "megatron-bert"},
        {**_LITTLE, "model_type": "nezha", "max_relative_position": 64},
        {**_LITTLE, "model_type": "ernie", "use_task_id": True, "hidden_act": "relu"},
        {**_LITTLE, "model_type": "roformer", "max_position_embeddings": 1536},
        {
            **_LITTLE,
            "model_type": "modernbert",
            "hidden_activation": "gelu",
            "norm_eps": 1e-5,
            "intermediate_size": 768,
        },
        {**_LITTLE, **_QWEN, "model_type": "qwen2"},
        {**_LITTLE, **_INTERBERT, "model_type": "interbert"},
        {**_LITTLE, **_QWEN, "model_type": "qwen3", "head_dim": 64},
        {**_LITTLE, **_ROBERTA, "model_type": "roberta"},
        {**_LITTLE, **_ROBERTA, "model_type": "xlm-roberta"},
    )
}

INTRODUCTION = """\
# Every family through every target

Checkpoints of random weights, in the published shapes, are exported to every target. Each artifact is compared with the
float64 oracle on all cases (lengths 1 to 512). The gates are those of `yizhi/parity/tolerances.py`.

`python -m benchmarks.families` makes this table:

- *Worst error* is the largest error of any case. For int8 it is the agreement on decided positions, the mean KL in
  nats, and the lowest cosine of any layer.
- *Of what is allowed* is the largest share of the tolerance that an error uses.
- *Not run* is neither a pass nor a failure.
"""


def main(arguments: list[str] | None = None) -> int:
    """Measure what was named, or everything; then write the table. Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(shapes())} (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once (default: a core each)")
    parser.add_argument("--table", type=Path, default=TABLE, help="the file to write (default: docs/families.md)")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="what was measured so far")
    options = parser.parse_args(arguments)
    known = shapes()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    measured = json.loads(options.measured.read_text()) if options.measured.exists() else {}
    for name in options.names or known:
        measured[name] = measure(name, known[name], options.jobs, options.measured.parent / "families")
        options.measured.write_text(to_json(measured), encoding="utf-8")
        options.table.write_text(make_table(measured) + sections_of(options.table), encoding="utf-8")
        print(f"{name}: {'passed' if passed(measured[name]) else 'FAILED'}", file=sys.stderr, flush=True)
    return 0 if all(passed(measured[name]) for name in options.names or known) else 1


def shapes() -> dict[str, Mapping[str, Any]]:
    """A config for each row of the table."""
    known = read_catalogue()
    published = {name: known[name].spec.config.raw for name in PUBLISHED if known[name].spec}
    return {**published, **IN_LITTLE}


def measure(name: str, config: Mapping[str, Any], jobs: int, folder: Path) -> dict[str, Any]:
    """Export and verify one shape in `folder`, and remove everything again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        synthesize(folder / "checkpoint", dict(config))
        with Progress() as progress:
            rows = export(folder / "checkpoint", folder / "release", find_targets(None), jobs, progress)
        return rows_as_dict(rows)
    finally:
        shutil.rmtree(folder)


def passed(rows: Mapping[str, Any]) -> bool:
    """Whether every target of a row was run and passed."""
    return set(rows) == set(TARGETS) and all(row["passed"] for row in rows.values())


def make_table(measured: Mapping[str, Any]) -> str:
    """The document: one line per shape and target; shapes without a measurement are said to be not run."""
    lines = [
        INTRODUCTION,
        "| checkpoint | shape | target | size | worst error | of what is allowed | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, raw in shapes().items():
        config = EncoderConfig.from_dict(dict(raw), name)
        width = config.hidden_size
        narrow = f", embeddings {config.embedding_size}" if config.embedding_size != config.hidden_size else ""
        shape = f"{config.model_type}, {config.num_hidden_layers} × {width}{narrow}, {config.hidden_act}"
        rows = measured.get(name)
        if rows is None:
            lines.append(f"| {name} | {shape} | all | | | | not run |")
            continue
        for number, target in enumerate(TARGETS):
            row = rows.get(target)
            start = f"| {name} | {shape} |" if number == 0 else "| | |"
            if row is None:
                lines.append(f"{start} {target} | | | | not run |")
                continue
            verdict = "pass" if row["passed"] else f"**FAIL**: {row['faults'][0]}"
            parity = row["parity"] and from_plain(VerificationRecord, row["parity"])
            errors, size, share = describe_errors(parity), format_bytes(row["size"]), describe_share(parity)
            lines.append(f"{start} {target} | {size} | {errors} | {share} | {verdict} |")
    return "\n".join(lines) + "\n"


def sections_of(page: Path) -> str:
    """What stands below the table, from the first heading on: it is written by hand."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return text[text.find("\n## ") :] if "\n## " in text else ""


def describe_share(parity: VerificationRecord | None) -> str:
    """The largest error as a share of what the tolerance allows there; int8 has gates instead."""
    if parity is None or parity.cosine:
        return ""
    return f"{max(entry.excess for entry in parity.worst.values()):.2f}"


if __name__ == "__main__":
    sys.exit(main())
