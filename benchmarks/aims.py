"""The aims of docs/performance.md, and how each is judged from what was measured."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]
OURS = "yizhi"
FRAMEWORKS = {
    "pytorch": "PyTorch",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorflow": "TensorFlow",
    "flax": "JAX",
}
CLASSES = {**FRAMEWORKS, "int8": "int8"}
# The peer of each target that the exports are compared with.
PEER_EXPORTS = {
    "onnx": "optimum",
    "onnx-int8": "optimum",
    "tensorflow": "transformers",
    "flax": "transformers",
    "openvino": "optimum-intel",
    "openvino-int8": "optimum-intel",
    "litert": "litert-torch",
}
# These are no encoders: the matrix products of a pass alone.
LIMITS = ("products, torch", "products, numpy")
# int8 is also compared with our own float32 graph, in the same runtime.
FLOAT32 = "yizhi, fp32"
# NNCF's model is compared with this one, in the same runtime.
OPENVINO = "yizhi, OpenVINO"
# How far exports of four sizes may be from a line, and how much their memory may grow.
LINEAR_WITHIN, CONSTANT_WITHIN = 0.25, 1.25


class Unknown(Exception):
    """A figure that an aim needs was not measured; the message is why."""


@dataclass(frozen=True)
class Verdict:
    """met: None where nothing was aimed at, or it could not be judged. found: what was measured."""

    met: bool | None
    found: str


@dataclass(frozen=True)
class Aim:
    """key: names its explanation. section: where its figures come from. judge: raises Unknown."""

    key: str
    section: str
    what: str
    aim: str
    judge: Callable[[Rows], Verdict]


def typical(rows: Rows, row: str, contestant: str, value: str = "seconds") -> float:
    """The median of a contestant's measurements. Raises Unknown."""
    found = rows.get(row, {}).get(contestant, {})
    if value not in found:
        raise Unknown(f"{contestant}: {found.get('failed', 'not run')}")
    return statistics.median(found[value])


def best_peer(rows: Rows, row: str, value: str = "seconds") -> tuple[str, float]:
    """The peer with the least, and how much. Raises Unknown where none was measured."""
    peers = {
        name: statistics.median(found[value])
        for name, found in rows.get(row, {}).items()
        if name not in (OURS, FLOAT32, OPENVINO, *LIMITS) and value in found
    }
    if not peers:
        raise Unknown("no peer was measured")
    return min(peers.items(), key=lambda item: item[1])


def _export(rows: Rows, row: str, faster: float, memory: float | None) -> Verdict:
    parts = [row] if row != "onnx-int8" else ["onnx", "onnx-int8"]  # optimum quantizes what it exported
    theirs = sum(typical(rows, part, PEER_EXPORTS[part]) for part in parts)
    ratio = theirs / typical(rows, row, OURS)
    met, found = ratio >= faster, f"{ratio:.1f}×"
    if memory is not None:
        share = typical(rows, row, OURS, "peak") / typical(rows, row, PEER_EXPORTS[row], "peak")
        met, found = met and share <= memory, f"{found}; {share:.2f} of the memory"
    return Verdict(met, found)


def _export_all(rows: Rows) -> Verdict:
    theirs = sum(typical(rows, row, peer) for row, peer in PEER_EXPORTS.items())
    ratio = theirs / typical(rows, "all", OURS)
    return Verdict(ratio >= 3, f"{ratio:.1f}×")


def _copy(rows: Rows) -> Verdict:
    copy = typical(rows, "all", "copy and hash")
    targets = [row for row in rows if row != "all"]
    wall = sum(typical(rows, row, OURS) for row in targets)
    cpu = sum(typical(rows, row, OURS, "cpu") for row in targets)
    copy_cpu = typical(rows, "all", "copy and hash", "cpu")
    return Verdict(None, f"{wall / copy:.1f}× its time, {cpu / copy_cpu:.1f}× its processor time")


def shapes(rows: Rows, start: str) -> list[str]:
    """Rows of passes that begin so."""
    return [row for row in rows if row.startswith(f"{start} ")]


def _fastest(rows: Rows, start: str) -> Verdict:
    ratios = {}
    for row in shapes(rows, start):
        name, theirs = best_peer(rows, row)
        ratios[row.partition(" ")[2]] = (theirs / typical(rows, row, OURS), name)
    if not ratios:
        raise Unknown("not run")
    found = "; ".join(f"{shape}: {ratio:.2f}× {name}" for shape, (ratio, name) in ratios.items())
    return Verdict(all(ratio >= 1 for ratio, _ in ratios.values()), found)


def _gain(rows: Rows, start: str) -> Verdict:
    """Ours over our own float32 in the same runtime: what int8 buys on the processor that measured."""
    ratios = {
        row.partition(" ")[2]: typical(rows, row, FLOAT32) / typical(rows, row, OURS) for row in shapes(rows, start)
    }
    if not ratios:
        raise Unknown("not run")
    return Verdict(min(ratios.values()) >= 1, "; ".join(f"{shape}: {ratio:.2f}×" for shape, ratio in ratios.items()))


def _against_nncf(rows: Rows) -> Verdict:
    ratios = {
        row.partition(" ")[2]: typical(rows, row, "OpenVINO") / typical(rows, row, OPENVINO)
        for row in shapes(rows, "int8")
    }
    if not ratios:
        raise Unknown("not run")
    return Verdict(min(ratios.values()) >= 1, "; ".join(f"{shape}: {ratio:.2f}×" for shape, ratio in ratios.items()))


def _near_limit(rows: Rows, start: str) -> Verdict:
    row = f"{start} 8×128"
    beside = row if rows.get(row, {}).keys() & set(LIMITS) else f"{next(iter(FRAMEWORKS))} 8×128"
    known = [name for name in LIMITS if "seconds" in rows.get(beside, {}).get(name, {})]
    if not known:
        raise Unknown("the products were not measured")
    share = min(typical(rows, beside, name) for name in known) / typical(rows, row, OURS)
    return Verdict(share >= 0.9, f"{share:.2f}")


def _invariant(rows: Rows) -> Verdict:
    moved = {name: typical(rows, "quality", name, "moved") for name in rows.get("quality", {})}
    if OURS not in moved:
        raise Unknown("not run")
    others = ", ".join(f"{name} {value:.1e}" for name, value in moved.items() if name != OURS)
    return Verdict(moved[OURS] == 0, f"largest change of a row's states in a batch: {moved[OURS]:.1g}; {others}")


def _least(rows: Rows, row: str, value: str) -> Verdict:
    name, theirs = best_peer(rows, row, value)
    ratio = theirs / typical(rows, row, OURS, value)
    return Verdict(ratio >= 1, f"{ratio:.2f}× {name}")


def _linear(rows: Rows) -> Verdict:
    worst: dict[str, float] = {}
    for target in _targets(rows):
        sizes = [typical(rows, row, target, "bytes") for row in rows]
        seconds = [typical(rows, row, target) for row in rows]
        slope, start = statistics.linear_regression(sizes, seconds)
        worst[target] = max(
            abs(second / (start + slope * size) - 1) for size, second in zip(sizes, seconds, strict=True)
        )
    found = ", ".join(f"{target} {100 * value:.0f} %" for target, value in worst.items())
    return Verdict(max(worst.values()) <= LINEAR_WITHIN, f"furthest from a straight line: {found}")


def _constant(rows: Rows) -> Verdict:
    growth = {}
    for target in ("onnx", "flax"):
        peaks = [typical(rows, row, target, "peak") for row in rows]
        growth[target] = peaks[-1] / peaks[0]
    first, last = next(iter(rows)), list(rows)[-1]
    found = ", ".join(f"{target} {value:.2f}×" for target, value in growth.items())
    return Verdict(max(growth.values()) <= CONSTANT_WITHIN, f"{found}, from {first} to {last}")


def _rate(rows: Rows, start: str, least: float) -> Verdict:
    """Ours over the fastest of the contestants whose names begin so."""
    rates = {name: typical(rows, "bulk", name, "rate") for name in rows["bulk"] if name.startswith(start)}
    if not rates:
        raise Unknown("not run")
    name = max(rates, key=lambda name: rates[name])
    ratio = typical(rows, "bulk", OURS, "rate") / rates[name]
    return Verdict(ratio >= least, f"{ratio:.2f}× {name}")


def _targets(rows: Rows) -> list[str]:
    if len(rows) < 3:
        raise Unknown("not run: a line needs three sizes")
    return list(next(iter(rows.values())))


AIMS: tuple[Aim, ...] = (
    Aim(
        "export-onnx",
        "exports",
        "export ONNX fp32, against `optimum-cli export onnx`",
        "≥ 20× faster, ≤ 1/8 of the memory",
        partial(_export, row="onnx", faster=20, memory=1 / 8),
    ),
    Aim(
        "export-onnx-int8",
        "exports",
        "export ONNX int8 from the checkpoint, against optimum's export and quantize",
        "≥ 10× faster",
        partial(_export, row="onnx-int8", faster=10, memory=None),
    ),
    Aim(
        "export-tensorflow",
        "exports",
        "export SavedModel, against transformers",
        "≥ 5× faster, ≤ 0.6 of the memory",
        partial(_export, row="tensorflow", faster=5, memory=0.6),
    ),
    Aim(
        "export-flax",
        "exports",
        "export Flax, against transformers",
        "≥ 5× faster, ≤ 1/3 of the memory",
        partial(_export, row="flax", faster=5, memory=1 / 3),
    ),
    Aim(
        "export-all",
        "exports",
        "all exports with their verification, against the sum of the peers' without",
        "≥ 3× faster",
        _export_all,
    ),
    Aim(
        "export-copy",
        "exports",
        "the exports one after another, against copying and hashing the bytes they write",
        "stated",
        _copy,
    ),
    *(
        Aim(
            f"fp32-{key}",
            "fp32",
            f"fp32 passes in {name}, against its best peer",
            "≥ 1.00×",
            partial(_fastest, start=key),
        )
        for key, name in FRAMEWORKS.items()
    ),
    *(
        Aim(
            f"products-{key}",
            "fp32",
            f"fp32 passes of 8×128 in {name}, against their matrix products alone",
            "≥ 0.90",
            partial(_near_limit, start=key),
        )
        for key, name in FRAMEWORKS.items()
    ),
    Aim("int8", "int8", "int8 passes, against the best peer", "fastest", partial(_fastest, start="int8")),
    Aim("int8-gain", "int8", "int8 passes on this processor, against fp32", "≥ 1×", partial(_gain, start="int8")),
    Aim("int8-nncf", "int8", "int8 passes in OpenVINO, against NNCF's model", "≥ 1.00×", _against_nncf),
    Aim("int8-rows", "int8", "int8: a row's answer in any batch", "the same, bit for bit", _invariant),
    *(
        Aim(
            f"first-{key}",
            "first",
            f"start of the process to first answer, {name}, against the best peer",
            "fastest",
            partial(_least, row=key, value="seconds"),
        )
        for key, name in CLASSES.items()
    ),
    *(
        Aim(
            f"memory-{key}",
            "first",
            f"peak memory while running 8×128, {name}, against the best peer",
            "lowest",
            partial(_least, row=key, value="peak"),
        )
        for key, name in CLASSES.items()
    ),
    *(
        Aim(
            f"bulk-{key}",
            "bulk",
            f"many sentences, against {what}",
            f"≥ {least:g}×",
            partial(_rate, start=start, least=least),
        )
        for key, what, start, least in (
            ("padded", "padding to 512", "yizhi, padded", 10),
            ("pipeline", "optimum's pipeline at its best batch size", "optimum pipeline", 2),
            ("sentence-transformers", "sentence-transformers", "sentence-transformers", 1),
            ("ctranslate2", "CTranslate2", "CTranslate2", 1),
            ("equal", "our own on sentences of one length", "yizhi, all of one length", 0.92),
        )
    ),
    Aim("scale-time", "scale", "time of exports of growing models", "linear in bytes, within 25 %", _linear),
    Aim("scale-memory", "scale", "memory of ONNX and Flax exports", "nearly constant: ≤ 1.25×", _constant),
)


def judge(aim: Aim, sections: Mapping[str, Any]) -> Verdict:
    """An aim's verdict; where something it needs failed or was not run, that."""
    if aim.section not in sections:
        return Verdict(None, "not run")
    try:
        return aim.judge(sections[aim.section]["rows"])
    except Unknown as error:
        return Verdict(None, str(error))
