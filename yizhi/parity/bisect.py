"""Locates the first fault of a failed artifact, and the known mistake that would explain it.

Three steps, each narrower: the first output that differs; the first tensor inside that layer, if the artifact can show
it; and the fault of `yizhi.parity.mutations` that makes the oracle give the artifact's values.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from yizhi.model.spec import AFTER_LAYERS, IMAGE_PREFIX, MATCH_LOGITS, ZERO_AT_PADDING, EncoderSpec
from yizhi.parity import oracle
from yizhi.parity.cases import POSITION, TOKEN, Case
from yizhi.parity.compare import compare, cosines
from yizhi.parity.faults import LOGITS, AlteredCheckpoint, Fault
from yizhi.parity.golden import Golden
from yizhi.parity.mutations import FAULTS
from yizhi.parity.record import Diagnosis
from yizhi.parity.tolerances import FloatTolerance, QuantizedGates
from yizhi.parity.verdict import Verdict
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.base import TAPS, Runtime

# What is tried has to be computed in float64 once for each known fault.
_LONGEST = 32
# Any tensor inside a layer. No LayerNorm has made its elements alike in size: it is measured against its vector.
TAP = "tap"
# How much of the error a fault must leave unexplained at most, if it does not bring it within tolerance.
_RESEMBLES = 0.1


def bisect(runtime: Runtime, checkpoint: Checkpoint, golden: Golden, verdict: Verdict) -> Diagnosis | None:
    """Narrow down a failed verdict. None if no output of a short case differs from the oracle's.

    checkpoint: the artifact's source.
    """
    if verdict.gates is None:
        return None
    agrees = _judge(verdict.gates, golden)
    first: tuple[int, Case, NDArray, NDArray] | None = None
    order = _in_order(runtime.outputs)
    for case in sorted(golden.cases, key=lambda case: case.inputs.input_ids.size):
        if case.inputs.input_ids.shape[1] > _LONGEST or "hidden_states" not in case.signatures:
            continue
        found = _real(case, golden, runtime.run(case.inputs, runtime.signatures["hidden_states"]))
        expected = _real(case, golden, golden.reference[case.name])
        # Of text alone, nothing of an image stream's outputs is left.
        here = [name for name in order if expected[name].size]
        wrong = next((name for name in here if not agrees(name, found[name], expected[name])), None)
        bad = len(order) if wrong is None else order.index(wrong)
        if bad < (first[0] if first else len(order)):
            first = bad, case, found[order[bad]], expected[order[bad]]
    if first is None:
        return None
    output, case = order[first[0]], first[1]
    tensor, note = _first_tensor(runtime, checkpoint, golden, case, output, agrees)
    cause = _find_cause(checkpoint, golden, case, output, first[2], first[3], agrees)
    return Diagnosis(case.name, output, tensor, cause, note)


Agrees = Callable[[str, NDArray, NDArray], bool]


def _judge(gates: FloatTolerance | QuantizedGates, golden: Golden) -> Agrees:
    # As `verify` judges labels: those of one case may all lie near 0.
    typical = {}
    for name in (LOGITS, MATCH_LOGITS):
        labels = [golden.reference[case.name].get(name, np.zeros(0)).ravel() for case in golden.cases]
        if any(array.size for array in labels):
            typical[name] = _rms(np.concatenate(labels))

    def agrees(name: str, found: NDArray, expected: NDArray) -> bool:
        if isinstance(gates, FloatTolerance):
            scale = np.abs(expected).max(axis=-1, keepdims=True) if name == TAP else golden.scale(name, expected)
            return compare("", "", name, found, expected, gates, scale).passed
        if not np.isfinite(found).all():
            return False
        if name in typical and golden.per[name] != POSITION:
            return bool(_rms(found - expected) <= gates.label_error * typical[name])
        found_cosines = cosines(found, expected)
        return bool(found_cosines.min() >= gates.cosine and found_cosines.mean() >= gates.cosine_mean)

    return agrees


def _in_order(outputs: Iterable[str]) -> list[str]:
    """Hidden states in the order of computation, then the outputs made from the last of them."""
    layers = sorted(
        (name for name in outputs if "hidden_states." in name), key=lambda name: (int(name.split(".")[1]), name)
    )
    return [*layers, *(name for name in AFTER_LAYERS if name in outputs)]


def _real(case: Case, golden: Golden, outputs: dict[str, NDArray]) -> dict[str, NDArray]:
    """Only what means something: real tokens, rows that have any, compared positions; and zeros at padding."""
    real = case.inputs.attention_mask == 1
    kept = {}
    for name, array in outputs.items():
        per = golden.per.get(name, TOKEN)
        if per == POSITION:  # golden outputs, and the oracle's, have no others
            kept[name] = array[tuple(case.logit_positions.T)] if array.shape[:2] == real.shape else array
        elif name in ZERO_AT_PADDING:
            kept[name] = array
        else:
            kept[name] = array[case.meaningful(per)]
    return kept


def _layers_before(spec: EncoderSpec, output: str) -> list[int]:
    """The numbers of the layers between the hidden state before `output` and it."""
    block = int(output.rpartition(".")[2]) - 1 if output.startswith("hidden_states.") else -1
    if block < 0:
        return []
    start = sum(len(layers) for layers in spec.blocks[:block])
    return list(range(start, start + len(spec.blocks[block])))


def _first_tensor(
    runtime: Runtime, checkpoint: Checkpoint, golden: Golden, case: Case, output: str, agrees: Agrees
) -> tuple[str | None, str]:
    """The first tap that differs, and a note on the compared taps."""
    layers = _layers_before(checkpoint.spec, output)
    if output.startswith(f"{IMAGE_PREFIX}hidden_states."):
        return None, f"{output}: taps show the text's layers alone"
    if not layers:
        return None, f"{output} is computed outside of the layers"
    names = [f"layers.{layer}.{tap}" for layer in layers for tap in TAPS]
    expected = _real(case, golden, oracle.run(checkpoint, case.inputs, set(names)))
    found: dict[str, NDArray] = {}
    for layer in layers:
        inside = runtime.look_inside(case.inputs.complete(runtime.config), layer)
        found |= {f"layers.{layer}.{tap}": array for tap, array in inside.items()}
    if not found:
        return None, f"this {runtime.artifact.target} artifact cannot show the tensors inside a layer"
    found = _real(case, golden, found)
    bad = [name for name in names if name in found and not agrees(TAP, found[name], expected[name])]
    if not bad:
        after = "adapter or its LayerNorm" if checkpoint.spec.layers[layers[-1]].output_adapter else "LayerNorm"
        return None, f"every tensor inside the layer is right: the mistake is after the last of them, in its {after}"
    return bad[0], f"looked at {', '.join(name.rpartition('.')[2] for name in names if name in found)}"


def _find_cause(
    checkpoint: Checkpoint, golden: Golden, case: Case, output: str, found: NDArray, expected: NDArray, agrees: Agrees
) -> str | None:
    """The known fault that brings the oracle closest to the artifact, if it is close enough."""
    if not np.isfinite(found).all():
        return None
    best: tuple[float, Fault, NDArray] | None = None
    for number in _layers_before(checkpoint.spec, output) or [0]:
        for fault in FAULTS:
            if _is_candidate(fault, checkpoint.spec, number, output):
                faulty = _under(fault, checkpoint, number, golden, case, output)
                if faulty.shape != found.shape:
                    continue
                error = _rms(found - faulty)
                if best is None or error < best[0]:
                    best = (error, fault, faulty)
    if best is None or not (agrees(output, found, best[2]) or best[0] <= _RESEMBLES * _rms(found - expected)):
        return None
    return f"{best[1].name} ({best[1].happens})"


def _rms(error: NDArray) -> float:
    return float(np.sqrt(np.square(error.astype(np.float64)).mean()))


def _is_candidate(fault: Fault, spec: EncoderSpec, layer: int, output: str) -> bool:
    if not fault.in_oracle or not fault.needs(spec) or fault.first_output(spec, layer) != output:
        return False
    return not fault.tasks or spec.task in fault.tasks


def _under(fault: Fault, checkpoint: Checkpoint, layer: int, golden: Golden, case: Case, output: str) -> NDArray:
    """The oracle's output under a fault. Computes no further than this output."""
    altered = AlteredCheckpoint(checkpoint, fault, checkpoint.spec.layers[layer])
    blocks = _blocks_needed(altered.spec, output)
    last = blocks == len(altered.spec.blocks)
    altered.spec = replace(
        altered.spec, blocks=altered.spec.blocks[:blocks], final_norm=altered.spec.final_norm if last else None
    )
    outputs = oracle.run(altered, case.inputs, {output}, case.logit_positions, steps=fault.steps(oracle))
    return _real(case, golden, outputs)[output]


def _blocks_needed(spec: EncoderSpec, output: str) -> int:
    return int(output.rpartition(".")[2]) if output.startswith("hidden_states.") else len(spec.blocks)
