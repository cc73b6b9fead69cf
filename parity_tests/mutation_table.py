"""`make mutations`: make every fault on every target, and see which gate catches it.

Works in a checkout: the small checkpoints are the tests'. A verdict that passes is a survivor, and so
is one that first differs anywhere but where the fault was made.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from tests.artifacts import export_artifact
from tests.checkpoints import ADAPTER_VARIANTS, VARIANTS, write_variant
from tests.sentence_folders import SENTENCE_VARIANTS
from yizhi.converters.targets import TARGETS
from yizhi.errors import CheckFailed
from yizhi.model.layout import tensorflow_name, transposes
from yizhi.model.spec import AFTER_LAYERS
from yizhi.parity.faults import FP32, IN_STEPS, STORED, TEXT, AlteredCheckpoint, Fault
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.parity.mutations import FAULTS
from yizhi.parity.verdict import Verdict
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Runtime

LAYER = 1  # where a fault of one layer is made: not the first, so that a gate must find it
# Enough to see every fault, in few shapes: JAX compiles for each. int8 is also run row by row.
CASES = ("masks", "segments", "padding-right", "padding-interior", "padding-id-in-text", "regions-padded")
_CONFIG = {"num_hidden_layers": 3, "max_position_embeddings": 26}
FORWARDS = {name: f"yizhi.converters.forwards.{name.removesuffix('-int8')}" for name in TARGETS}


@dataclass(frozen=True)
class Finding:
    """What became of one fault on one target. seen: the first output that failed, or None."""

    fault: Fault
    target: str
    seen: str | None
    expected: str
    says: str

    @property
    def caught(self) -> bool:
        """Whether the gate went red, and for fp32 in the right place; int8's gates are wider."""
        return self.seen is not None and (self.target not in FP32 or self.seen == self.expected)


class Laboratory:
    """The small checkpoints, their golden outputs, and their opened artifacts, made when first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._subjects: dict[str, tuple[Checkpoint, Golden]] = {}
        self._opened: dict[tuple[str, str], Runtime] = {}
        self._count = 0

    def judge(self, fault: Fault, target: str) -> Finding:
        """Make the fault, verify, and say what was seen."""
        checkpoint, golden = self.subject(fault.variant)
        with self.faulty(fault, target) as runtime:
            verdict = verify(runtime, cut(golden, target), TARGETS[target].precision)
        says = verdict.faults[0] if verdict.faults else "passed"
        return Finding(fault, target, first_failure(verdict), fault.first_output(checkpoint.spec, LAYER), says)

    def check_unaltered(self, variant: str, target: str) -> Verdict:
        """The artifact as it should be: it must pass, or catching a fault in it means nothing."""
        golden = cut(self.subject(variant)[1], target)
        return verify(self.original(variant, target), golden, TARGETS[target].precision)

    def subject(self, variant: str) -> tuple[Checkpoint, Golden]:
        """A small checkpoint and its golden outputs."""
        if variant not in self._subjects:
            checkpoint = Checkpoint.open(_write(self._folder / variant, variant))
            self._subjects[variant] = checkpoint, Golden.make(checkpoint)
        return self._subjects[variant]

    def original(self, variant: str, target: str) -> Runtime:
        """The artifact as it should be, opened."""
        if (variant, target) not in self._opened:
            checkpoint, _ = self.subject(variant)
            self._opened[variant, target] = open_runtime(self._export(checkpoint, target))
        return self._opened[variant, target]

    def _export(self, checkpoint: Any, target: str) -> Path:
        self._count += 1
        return export_artifact(checkpoint, target, self._folder / f"{target}-{self._count}")

    @contextmanager
    def faulty(self, fault: Fault, target: str) -> Iterator[Runtime]:
        """The artifact with the fault made in it, opened."""
        checkpoint, _ = self.subject(fault.variant)
        layer = checkpoint.spec.layers[LAYER]
        altered = AlteredCheckpoint(checkpoint, fault, layer)
        # Quicker than an export, but what is stored stays as it was.
        if target == "tensorflow" and fault.in_weights_alone and fault.shows != STORED:
            with _assigned(self.original(fault.variant, target), altered) as runtime:
                yield runtime
            return
        with ExitStack() as stack:
            forward = importlib.import_module(FORWARDS[target])
            for name, function in fault.steps(forward).items():
                stack.enter_context(patch.object(forward, name, function))
            for name, function in fault.graph.items():
                owner, _, method = name.partition(".")
                if quantizer := getattr(TARGETS[target].load_converter(), owner, None):
                    stack.enter_context(patch.object(quantizer, method, function))
            folder = self._export(altered, target)
            if fault.artifact:
                fault.artifact(folder, layer)
            runtime = stack.enter_context(open_runtime(folder))
            if target == "flax" and fault.in_weights_alone:
                _share_compiled(self.original(fault.variant, target), runtime)
            yield runtime


def cut(golden: Golden, target: str) -> Golden:
    """The cases that are needed; rows run alone, too, are new shapes, and only int8's gates ask for them."""
    cases = [case for case in golden.cases if case.name in CASES]
    if TARGETS[target].precision != "int8":
        cases = [replace(case, alone=()) for case in cases]
    return replace(golden, cases=cases)


def first_failure(verdict: Verdict) -> str | None:
    """What failed first: text, a hidden state, else an output made of the last, else what is stored, or steps alone.

    None if all is well.
    """
    if verdict.passed:
        return None
    if verdict.wrong_text:
        return TEXT
    if verdict.faults and all(IN_STEPS in fault for fault in verdict.faults):
        return IN_STEPS
    failed = verdict.failed_outputs()
    output = next((name for name in AFTER_LAYERS if name in failed), None)
    if not failed and verdict.faults == verdict.wrong_weights:
        return STORED
    # What is left are int8's gates on rows run alone, and on logits.
    return verdict.first_bad_layer() or output or ("rows alone" if verdict.change_alone else "logits")


def _write(folder: Path, variant: str) -> Path:
    if variant != "loud":
        given = {**VARIANTS, **ADAPTER_VARIANTS, **SENTENCE_VARIANTS}[variant]
        config = {**given.get("config", {}), **_CONFIG}
        return write_variant(folder, variant, config=config, alter=_resemble_trained)

    def alter(tensors: dict[str, np.ndarray]) -> None:
        _resemble_trained(tensors)
        tensors["bert.encoder.layer.2.attention.self.query.weight"] *= 1e5

    return write_variant(folder, "bert", config=_CONFIG, alter=alter)


def _resemble_trained(tensors: dict[str, np.ndarray]) -> None:
    """Tokens as small as trained ones, so that LayerNorm's epsilon matters; query biases and logits as large."""
    for name in tensors:
        if "embeddings.weight" in name and ".v_embeddings." not in name:
            tensors[name] *= 0.1
        if name.endswith("query.bias"):
            tensors[name] *= 3
        if ".v_layer." in name and name.endswith("query.weight"):
            tensors[name] *= 8  # else attention sees all regions alike, however many heads it has
        if name == "cls.predictions.transform.LayerNorm.weight":
            tensors[name] *= 5


@contextmanager
def _assigned(runtime: Runtime, altered: AlteredCheckpoint) -> Iterator[Runtime]:
    """The opened SavedModel with other values in its variables: exporting it again would only copy these."""
    before = {}
    for parameter in altered.parameters():
        variable = runtime._model
        for part in tensorflow_name(parameter).split("."):
            variable = getattr(variable, part)
        before[parameter.name] = (variable, variable.numpy())
        array = altered.array(parameter.name)
        variable.assign(array.T if transposes(parameter) else array)
    try:
        yield runtime
    finally:
        for variable, values in before.values():
            variable.assign(values)


def _share_compiled(original: Runtime, runtime: Runtime) -> None:
    """The computation is the same, and compiling it is what takes time."""
    for name in ("_embed", "_step", "_heads"):
        setattr(runtime, name, getattr(original, name))


def run(targets: Sequence[str], faults: Sequence[Fault], report: Callable[[Finding], None]) -> list[Finding]:
    """Make each fault on each target where it can be made. Raises CheckFailed where an unaltered artifact fails."""
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder))
        for target in targets:
            here = [fault for fault in faults if target in fault.targets]
            for variant in dict.fromkeys(fault.variant for fault in here):
                verdict = laboratory.check_unaltered(variant, target)
                if not verdict.passed:
                    raise CheckFailed(f"{target}, {variant}: the unaltered artifact fails: {verdict.faults}")
            for fault in here:
                findings.append(laboratory.judge(fault, target))
                report(findings[-1])
    return findings


def main() -> int:
    """Print fault × target × caught by. Returns 1 if one survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    parser.add_argument("--fault", action="append", help="part of a name")
    options = parser.parse_args()
    targets = options.target or list(TARGETS)
    faults = [fault for fault in FAULTS if not options.fault or any(part in fault.name for part in options.fault)]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    begin = time.monotonic()
    findings = run(targets, faults, lambda finding: print(".", end="", flush=True, file=sys.stderr))
    print(file=sys.stderr)
    by_place = {(finding.fault.name, finding.target): finding for finding in findings}
    width = max(len(fault.name) for fault in faults)
    print(f"{'fault':{width}}  " + "  ".join(f"{target:15}" for target in targets))
    for fault in faults:
        cells = [_cell(by_place.get((fault.name, target))) for target in targets]
        print(f"{fault.name:{width}}  " + "  ".join(f"{cell:15}" for cell in cells))
    survivors = [finding for finding in findings if not finding.caught]
    print(
        f"\n{len(findings)} of {len(faults)} faults × {len(targets)} targets in {time.monotonic() - begin:.0f} s; ",
        end="",
    )
    print(f"{len(survivors)} survived")
    for finding in survivors:
        print(f"  {finding.fault.name}, {finding.target}: expected at {finding.expected}; found {finding.says}")
    return 1 if survivors else 0


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return "-"
    return finding.seen if finding.caught and finding.seen else f"SURVIVED {finding.seen or ''}"


if __name__ == "__main__":
    sys.exit(main())
