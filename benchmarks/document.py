"""docs/performance.md and its charts, from what was measured. A pure function of it."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.aims import AIMS, CLASSES, FRAMEWORKS, LIMITS, OURS, Rows, judge
from benchmarks.charts import Groups, bar_chart
from yizhi.reports.tables import format_bytes

# What each section says before its figures.
SECTIONS: Mapping[str, tuple[str, str]] = {
    "exports": (
        "Exports",
        "Whole processes, from start to exit: wall time, processor time, and the largest resident memory of the "
        "process and those it starts. Ours check and hash the checkpoint, write the artifact, hash what they write, "
        "and sync it to the disk; theirs do not hash or sync. optimum's includes its own check of one input, which "
        "it does by itself. `all` is `yizhi export` with its verification of every artifact, two jobs at once. "
        "`copy and hash` reads the bytes of all five artifacts, hashes, writes and syncs them.",
    ),
    "fp32": (
        "float32 passes",
        "Token ids in, last hidden states out, as NumPy arrays; every row full. A round is the fastest of a few "
        "passes. `optimum O1` and `O3` are optimum's files in ONNX Runtime; O3 approximates GELU. transformers' "
        "TensorFlow class runs in a `tf.function`, its Flax class under `jit`, PyTorch with scaled dot-product "
        "attention. `products` are a pass's matrix products alone, by PyTorch's and NumPy's libraries. Compilation "
        "is not in these figures.",
    ),
    "int8": (
        "int8 passes",
        "optimum quantizes dynamically, a scale for each tensor of activations; CTranslate2 a scale for each token, "
        "as ours. OpenVINO's model is NNCF's: static scales, found on 32 random rows, and float operations in "
        "bfloat16 where the processor has it, its default. `yizhi, fp32` is our float32 graph in ONNX Runtime: what "
        "int8 buys depends on the processor. `cosine` compares with our float32 states (random weights); `moved` is "
        "the largest change of a row's states when seven others join its batch.",
    ),
    "first": (
        "First answer and memory",
        "A fresh process each time: the seconds until it has imported its framework, opened the model and answered "
        "one row of 32 tokens; and its largest resident memory after a pass of 8×128. Files are in the page cache.",
    ),
    "scale": ("Scale", "Our exports of growing models, whole processes."),
    "bulk": (
        "Many sentences",
        "Embedding sentences of log-normal lengths, 50 characters on average and at most 510: real tokens a second. "
        "Contestants that do not look across batches are given a part of the sentences.",
    ),
    "gpu": (
        "GPU",
        "Ours run in strict float32 alone. `one product` is of two 8192×8192 matrices: 1.1 TFLOP, the card's own rate.",
    ),
}
INTRODUCTION = """\
# Performance

Made by `make bench`, which installs the peers into a venv of their own (`benchmarks/peers.txt`) and has ours and theirs
take turns on one machine, with the same threads, checkpoint and inputs. `make bench QUICK=1` takes minutes, on a model
of 3 layers. Figures are medians; *spread* is the largest less the smallest, over the median. A ratio above 1 is in our
favour. Weights are random, of BERT-base's shape: speed does not depend on them.
"""
_HEADS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "seconds": ("seconds", lambda value: f"{value:.3g}" if value < 100 else f"{value:.0f}"),
    "cpu": ("processor seconds", lambda value: f"{value:.3g}" if value < 100 else f"{value:.0f}"),
    "peak": ("peak memory", lambda value: format_bytes(int(value))),
    "bytes": ("written", lambda value: format_bytes(int(value))),
    "rate": ("tokens a second", lambda value: f"{value:,.0f}"),
    "cosine": ("cosine", lambda value: f"{value:.5f}"),
    "moved": ("moved", lambda value: f"{value:.1e}" if value else "0"),
}


def make_document(results: Mapping[str, Any], explanations: Mapping[str, str]) -> dict[str, str]:
    """File name -> text: `performance.md` and the charts that it shows, beside it in `performance/`.

    explanations: by aim; one is quoted where its aim is missed.
    """
    sections = results["sections"]
    files = {f"performance/{name}.svg": chart for name, chart in _charts(sections).items()}
    lines = [
        INTRODUCTION,
        *_environment(results),
        "",
        "## Aims",
        "",
        "| what | aim | found | |",
        "|---|---|---|---|",
    ]
    verdicts = {aim.key: judge(aim, sections) for aim in AIMS}
    words = {True: "met", False: "**missed**", None: ""}
    for aim in AIMS:
        verdict = verdicts[aim.key]
        lines.append(f"| {aim.what} | {aim.aim} | {_cell(verdict.found)} | {words[verdict.met]} |")
    for name, (title, introduction) in SECTIONS.items():
        lines += ["", f"## {title}", "", introduction, ""]
        if name not in sections:
            lines.append("Not run.")
            continue
        section = sections[name]
        lines += [_made(section), ""]
        if "not_run" in section:
            lines.append(f"Not run: {section['not_run']}.")
            continue
        lines += [f"![{title}]({file})\n" for file in files if file.startswith(f"performance/{name}")]
        lines += _table(section["rows"])
        for aim in AIMS:
            if aim.section == name and verdicts[aim.key].met is False:
                reason = explanations.get(aim.key, "not yet explained.").strip()
                lines += ["", f"*Missed: {aim.what} ({aim.aim}; found {verdicts[aim.key].found}).* {reason}"]
    return {"performance.md": "\n".join(lines) + "\n", **files}


def _environment(results: Mapping[str, Any]) -> list[str]:
    machine = results["environment"]
    versions: dict[str, dict[str, str]] = {}
    for section in results["sections"].values():
        for whose, found in section["versions"].items():
            versions.setdefault(whose, {}).update(found)
    lines = [
        f"Machine: {machine['processor']}, {machine['cores']} cores, {format_bytes(machine['memory_bytes'])}, "
        f"{machine['system']}, Python {machine['python']}. Instruction sets: {', '.join(machine['instructions'])}."
    ]
    for whose, found in sorted(versions.items()):
        lines += [
            "",
            f"Versions, {whose}: " + ", ".join(f"{name} {value}" for name, value in sorted(found.items())) + ".",
        ]
    return lines


def _made(section: Mapping[str, Any]) -> str:
    quick = " **A quick run, of a quarter of the model: not for quoting.**" if section["quick"] else ""
    card = f", {section['card']}" if "card" in section else ""
    return f"{section['measured']}, {section['layers']} layers, {section['threads']} threads{card}.{quick}"


def _table(rows: Rows) -> list[str]:
    """Tables of equal columns: one line for each contestant of each row."""
    lines: list[str] = []
    last: list[str] = []
    for row, contestants in rows.items():
        measured = {key for found in contestants.values() for key in found}
        columns = [key for key in _HEADS if key in measured]
        main = columns[0] if columns else "seconds"
        if columns != last:
            heads = ["", "", *(_HEADS[key][0] for key in columns[:1]), "spread", "ours / theirs"]
            heads += [_HEADS[key][0] for key in columns[1:]]
            lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
            last = columns
        ours = contestants.get(OURS, {}).get(main)
        for number, (name, found) in enumerate(contestants.items()):
            start = f"| {row if number == 0 else ''} | {name} |"
            if "failed" in found or "not_run" in found:
                why = f"failed: {found['failed']}" if "failed" in found else f"not run: {found['not_run']}"
                lines.append(f"{start} {_cell(why)} |" + " |" * (len(columns) + 1))
                continue
            cells = [_HEADS[key][1](statistics.median(found[key])) if key in found else "" for key in columns]
            cells[1:1] = [_spread(found.get(main)), _ratio(main, ours, found.get(main), name)]
            lines.append(f"{start} {' | '.join(cells)} |")
    return lines[1:]


def _spread(values: list[float] | None) -> str:
    if not values or len(values) < 2:
        return ""
    return f"{100 * (max(values) - min(values)) / statistics.median(values):.0f} %"


def _ratio(value: str, ours: list[float] | None, theirs: list[float] | None, name: str) -> str:
    """Above 1 where ours is better."""
    if not ours or not theirs or name == OURS or value not in ("seconds", "rate"):
        return ""
    ratio = statistics.median(ours) / statistics.median(theirs)
    return f"{ratio if value == 'rate' else 1 / ratio:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _charts(sections: Mapping[str, Any]) -> dict[str, str]:
    """Name -> SVG; the name begins with its section's."""
    charts: dict[str, str] = {}

    def add(name: str, title: str, form: str, groups: Groups) -> None:
        if any(groups.values()):
            charts[name] = bar_chart(title, {group: bars for group, bars in groups.items() if bars}, form)

    def rows(section: str) -> Rows:
        return sections.get(section, {}).get("rows", {})

    exported = {row: found for row, found in rows("exports").items() if len(found) > 1 and row != "all"}
    add("exports-seconds", "Export, whole process, seconds", "{:.1f} s", _bars(exported, "seconds"))
    add("exports-memory", "Export, peak memory, GB", "{:.2f} GB", _bars(exported, "peak", lambda value: value / 1e9))
    rate = _bars(
        {name: rows("fp32").get(f"{key} 8×128", {}) for key, name in FRAMEWORKS.items()},
        "seconds",
        lambda seconds: 8 * 128 / seconds,
    )
    add("fp32-rate", "float32, 8 rows of 128 tokens: tokens a second", "{:,.0f}", rate)
    rate = _bars({"int8": rows("int8").get("int8 8×128", {})}, "seconds", lambda seconds: 8 * 128 / seconds)
    add("int8-rate", "int8, 8 rows of 128 tokens: tokens a second", "{:,.0f}", rate)
    started = {name: rows("first").get(key, {}) for key, name in CLASSES.items()}
    add("first-seconds", "Fresh process to first answer, seconds", "{:.1f} s", _bars(started, "seconds"))
    memory = _bars(started, "peak", lambda value: value / 1e9)
    add("first-memory", "Peak memory while running 8 rows of 128, GB", "{:.2f} GB", memory)
    add("bulk-rate", "Many sentences: real tokens a second", "{:,.0f}", _bars(rows("bulk"), "rate"))
    return charts


def _bars(rows: Rows, value: str, change: Callable[[float], float] = lambda value: value) -> Groups:
    """The median of each contestant of each row, or that it failed; without the matrix products."""
    return {
        row: {
            name: change(statistics.median(found[value]))
            if value in found
            else "failed"
            if "failed" in found
            else "not run"
            for name, found in contestants.items()
            if name not in LIMITS
        }
        for row, contestants in rows.items()
    }
