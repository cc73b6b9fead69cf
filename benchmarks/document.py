"""docs/performance.md and its charts, from what was measured. A pure function of that."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.aims import AIMS, CLASSES, LIMITS, OURS, Rows, judge
from benchmarks.charts import Groups, bar_chart
from benchmarks.machines import INTEGER_INSTRUCTIONS, best_instructions
from yizhi.reports.tables import format_bytes

# What each section says before its figures.
SECTIONS: Mapping[str, tuple[str, str]] = {
    "exports": (
        "Exports",
        """\
Each export is a whole process, from its start to its exit. The table gives wall time, processor time, and the largest
resident memory of the process and its children.

- Yizhi checks and hashes the checkpoint, writes the artifact, hashes the artifact, and syncs it to the disk.
- The peers do not hash or sync.
- `optimum` runs its own check of one input. The check is part of its command.
- `litert-torch` makes a graph for one row of 128 tokens.
- `optimum-intel` in int8 quantizes weights alone.
- `all` is `yizhi export` of all targets, with the verification of every artifact and two jobs at a time.
- `copy and hash` reads, hashes, writes and syncs the bytes of all artifacts, and does nothing else.""",
    ),
    "fp32": (
        "float32 passes",
        """\
A pass takes token ids and gives the last hidden states, as NumPy arrays. Every row is full. A round is the fastest of a
few passes. Compilation is not in these figures.

- `optimum O1` and `optimum O3` are optimum's files in ONNX Runtime. O3 approximates GELU.
- `optimum's graph` is optimum's ONNX file in OpenVINO. `optimum-intel` is its own graph, by its own class.
- transformers' TensorFlow class runs in a `tf.function`, its Flax class under `jit`, and its PyTorch class with scaled
  dot-product attention.
- `products` are the matrix products of a pass alone, by the libraries of PyTorch and NumPy.""",
    ),
    "int8": (
        "int8 passes",
        """\
The gain of int8 depends on the processor. `yizhi, fp32` is Yizhi's float32 graph in ONNX Runtime, for comparison.

- `yizhi` and `CTranslate2` compute a scale for each token.
- `optimum avx512_vnni` computes a scale for each tensor of activations.
- `OpenVINO` is NNCF's model. Its scales are static, from 32 random rows.
- `optimum-intel, int8 weights` is what `optimum-cli export openvino --weight-format int8` writes. The file has no
  scales for activations.
- NNCF's and optimum-intel's models run with OpenVINO's defaults. Their other operations are in bfloat16 if the
  processor has it.
- `cosine` compares the states with Yizhi's float32 states. The weights are random.
- `moved` is the largest change of a row's states when seven other rows join its batch.""",
    ),
    "first": (
        "First answer and memory",
        """\
Each figure is of a new process. The time ends when the process has imported its framework, opened the model and
answered one row of 32 tokens. The memory is the largest resident memory after a pass of 8×128. The files are in the
page cache.""",
    ),
    "scale": ("Scale", "Yizhi exports models of growing size, each in a whole process."),
    "bulk": (
        "Many sentences",
        """\
Each contestant embeds sentences of log-normal lengths: 50 characters on average, and at most 510. The figures are real
tokens a second. A contestant that does not sort sentences by length gets a part of the sentences.

sentence-transformers 6 runs on PyTorch and on OpenVINO, whose defaults compute in bfloat16 if the processor has it. The
ONNX backend is missing: it needs optimum-onnx, which needs transformers < 4.58, and sentence-transformers 6 needs
transformers 5. infinity-emb 0.0.78 is not here: it needs sentence-transformers < 4 and numpy < 2.""",
    ),
    "gpu": (
        "GPU",
        "Yizhi runs in strict float32 alone. `one product` multiplies two 8192×8192 matrices, 1.1 TFLOP: the "
        "rate of the card.",
    ),
}
INTRODUCTION = """\
# Performance

This page compares Yizhi with other tools. `make bench` measures both and writes the page. `make bench QUICK=1` takes
minutes, on a model of 3 layers, and does not change the page.

- Yizhi and its peers take turns on one machine, with the same threads, checkpoint and inputs.
- Peers are installed in environments of their own: `benchmarks/peers.txt` and `benchmarks/peers-5.txt` list them, with
  the reason for each version.
- Figures are medians. *Spread* is the largest figure less the smallest, divided by the median.
- In `ours / theirs`, a ratio above 1 means that Yizhi is better.
- The weights are random, in the shape of BERT-base. Speed does not depend on the values of weights.

## Machines

Processors differ most in their instructions for products of integers. Each kind of processor has its own results, and
its own verdict on each aim. The results are in `benchmarks/results`.
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


def make_document(machines: Mapping[str, Any], explanations: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """File name -> text: `performance.md` and the charts that it shows, beside it in `performance/`.

    machines: what `benchmarks.machines.read_results` gives. explanations: by the machine's best instructions for
    integers, then by aim; one is quoted where its aim is missed.
    """
    names = {kind: _name(results["machine"]) for kind, results in machines.items()}
    files: dict[str, str] = {}
    lines = [INTRODUCTION, *_machines(machines), "", "## Aims", ""]
    lines += [f"| what | aim | {' | '.join(names.values())} |", f"|---|---|{'---|' * len(machines)}"]
    verdicts = {kind: {aim.key: judge(aim, found["sections"]) for aim in AIMS} for kind, found in machines.items()}
    words = {True: "met: ", False: "**missed**: ", None: ""}
    for aim in AIMS:
        cells = [words[found[aim.key].met] + _cell(found[aim.key].found) for found in verdicts.values()]
        lines.append(f"| {aim.what} | {aim.aim} | {' | '.join(cells)} |")
    for name, (title, introduction) in SECTIONS.items():
        lines += ["", f"## {title}", "", introduction]
        for kind, results in machines.items():
            lines += ["", f"### {names[kind]}", ""]
            section = results["sections"].get(name)
            if section is None:
                lines.append("Not run.")
                continue
            lines += [_made(section, _newest_versions(results["sections"])), ""]
            if "not_run" in section:
                lines.append(f"Not run: {section['not_run']}.")
                continue
            charts = {f"performance/{kind}/{file}.svg": chart for file, chart in _charts(name, section["rows"]).items()}
            files |= charts
            lines += [f"![{title}]({file})\n" for file in charts]
            lines += _table(section["rows"])
            reasons = explanations.get(best_instructions(results["machine"]), {})
            for aim in AIMS:
                found = verdicts[kind][aim.key]
                if aim.section == name and found.met is False:
                    reason = reasons.get(aim.key, "This result is not explained yet.").strip()
                    lines += ["", f"*Missed: {aim.what}. Aim: {aim.aim}. Found: {found.found}.*", "", reason]
    return {"performance.md": "\n".join(lines) + "\n", **files}


def _name(machine: Mapping[str, Any]) -> str:
    return f"{machine['processor']}, {best_instructions(machine)}"


def _machines(machines: Mapping[str, Any]) -> list[str]:
    """A table of them, with the kinds of processors that were not measured; then the versions of each."""
    lines = ["| integer instructions | processor | cores | memory | system | Python |", "|---|---|---|---|---|---|"]
    for results in machines.values():
        machine = results["machine"]
        cells = (
            *(f"`{best_instructions(machine)}`", machine["processor"], str(machine["cores"])),
            *(format_bytes(machine["memory_bytes"]), machine["system"], machine["python"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    measured = {best_instructions(results["machine"]) for results in machines.values()}
    missing = [f"- `{name}`: {which}" for name, which in INTEGER_INSTRUCTIONS.items() if name not in measured]
    lines += ["", "No machine of these kinds was measured:", "", *missing] if missing else []
    for results in machines.values():
        every = ", ".join(results["machine"]["instructions"])
        lines += [
            "",
            f"{_name(results['machine'])}: its instruction sets are {every}. Versions in each environment:",
            "",
        ]
        for venv, found in _newest_versions(results["sections"]).items():
            lines.append(f"- {venv}: {', '.join(f'{name} {version}' for name, version in sorted(found.items()))}")
    return lines


def _newest_versions(sections: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Venv -> package -> the version that was measured last."""
    versions: dict[str, dict[str, str]] = {}
    for section in sorted(sections.values(), key=lambda section: section["measured"]):
        for venv, found in section["versions"].items():
            versions.setdefault(venv, {}).update(found)
    return versions


def _made(section: Mapping[str, Any], newest: Mapping[str, Mapping[str, str]]) -> str:
    """When and how a section was measured. newest: of the page, so that an older section can say where it differs."""
    quick = " **A quick run, of a quarter of the model: not for quoting.**" if section["quick"] else ""
    card = f", {section['card']}" if "card" in section else ""
    beside = f", beside {section['beside']}" if "beside" in section else ""
    older = [
        f"{name} {version} ({venv})"
        for venv, found in section["versions"].items()
        for name, version in sorted(found.items())
        if version != newest[venv][name]
    ]
    made_with = f" With {', '.join(older)}." if older else ""
    settings = f"{section['measured']}, {section['layers']} layers, {section['threads']} threads{card}{beside}"
    return f"{settings}.{made_with}{quick}"


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


def _charts(section: str, rows: Rows) -> dict[str, str]:
    """Name -> SVG; the name begins with the section's."""
    of_8x128 = {name: rows.get(f"{key} 8×128", {}) for key, name in CLASSES.items()}
    started = {name: rows.get(key, {}) for key, name in CLASSES.items()}
    exported = {row: found for row, found in rows.items() if len(found) > 1 and row != "all"}
    drawn: Mapping[str, Mapping[str, tuple[str, str, Groups]]] = {
        "exports": {
            "seconds": ("Export, whole process, seconds", "{:.1f} s", _bars(exported, "seconds")),
            "memory": ("Export, peak memory, GB", "{:.2f} GB", _bars(exported, "peak", _gigabytes)),
        },
        "fp32": {
            "rate": ("float32, 8 rows of 128 tokens: tokens a second", "{:,.0f}", _bars(of_8x128, "seconds", _rate))
        },
        "int8": {"rate": ("int8, 8 rows of 128 tokens: tokens a second", "{:,.0f}", _bars(of_8x128, "seconds", _rate))},
        "first": {
            "seconds": ("New process to first answer, seconds", "{:.1f} s", _bars(started, "seconds")),
            "memory": ("Peak memory while running 8 rows of 128, GB", "{:.2f} GB", _bars(started, "peak", _gigabytes)),
        },
        "bulk": {"rate": ("Many sentences: real tokens a second", "{:,.0f}", _bars(rows, "rate"))},
    }
    charts: dict[str, str] = {}
    for name, (title, form, groups) in drawn.get(section, {}).items():
        if shown := {group: bars for group, bars in groups.items() if bars}:
            charts[f"{section}-{name}"] = bar_chart(title, shown, form)
    return charts


def _gigabytes(size: float) -> float:
    return size / 1e9


def _rate(seconds: float) -> float:
    """Tokens a second of a pass of 8×128."""
    return 8 * 128 / seconds


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
