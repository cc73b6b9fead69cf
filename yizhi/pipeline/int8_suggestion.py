"""Which parts of an encoder to keep in float32, where 8 bits are too few for its gates."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from yizhi.converters.shared_files import write_config_and_tokenizer
from yizhi.converters.targets import TARGETS
from yizhi.parity.cases import IDS
from yizhi.parity.golden import Golden
from yizhi.parity.int8_quality import parts_of
from yizhi.parity.judge import verify
from yizhi.parity.tolerances import QuantizedGates
from yizhi.parity.verdict import Verdict
from yizhi.pipeline.export import describe_artifact
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter
from yizhi.runtimes import open_runtime

# Of the cases of random ids, those that are short; and each through the signature that shows most.
_LONGEST = 32
# More than this of the parts in float32 is no int8 any more.
_MOST = 0.5


def suggest_kept(checkpoint: Checkpoint, golden: Golden, kept: Sequence[str] = (), target: str = "onnx-int8") -> str:
    """A sentence with the fewest costly parts that make the gates pass in float32, beside `kept`.

    Each part is tried alone; then those that help most together, one more at a time.
    """
    few = _cut(golden)
    parts = [name for name in parts_of(checkpoint.spec) if name not in kept]
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def measure(*names: str) -> float:
            artifact = export_int8(checkpoint, Path(folder) / str(next(numbers)), target, keep_fp32=[*kept, *names])
            with open_runtime(artifact) as runtime:
                return _excess(verify(runtime, few, "int8"))

        alone = {name: measure(name) for name in parts}
        ranked = sorted(parts, key=alone.__getitem__)
        for some in range(1, max(1, int(_MOST * len(parts))) + 1):
            if (alone[ranked[0]] if some == 1 else measure(*ranked[:some])) <= 1:
                names = ",".join([*kept, *ranked[:some]])
                return f"kept in float32, these parts make it pass: {names} (`keep_fp32` of `yizhi export`)"
    return f"no half of its parts in float32 makes it pass; these cost most: {', '.join(ranked[:3])}"


def export_int8(checkpoint: Checkpoint, folder: Path, name: str = "onnx-int8", **options: Any) -> Path:
    """An artifact of an int8 target in a new folder. options: arguments of `yizhi.converters.int8_plan.plan_int8`."""
    target = TARGETS[name]
    folder.mkdir()
    writer = ArtifactWriter(folder)
    target.load_converter().convert(checkpoint, writer, **options)
    write_config_and_tokenizer(checkpoint, writer)
    writer.describe(describe_artifact(target, checkpoint, checkpoint.digest(), options))
    return folder


def _cut(golden: Golden) -> Golden:
    """The sentences and the short cases, each once."""
    cases = [
        replace(case, alone=(), signatures=case.signatures[-1:] if case.kind != IDS else ("hidden_states",))
        for case in golden.cases
        if case.kind != IDS or (case.inputs.input_ids.shape[1] <= _LONGEST and "hidden_states" in case.signatures)
    ]
    return replace(golden, cases=cases)


def _excess(verdict: Verdict) -> float:
    """The largest share that a measure takes of what its gate allows: passes at 1 or below."""
    gates = verdict.gates
    if not isinstance(gates, QuantizedGates):
        raise TypeError(f"{verdict.precision}: not judged as int8 is")
    shares = [(1 - cosine) / (1 - gates.cosine) for cosine in verdict.cosine.values()]
    shares += [(1 - cosine) / (1 - gates.cosine_mean) for cosine in verdict.cosine_mean.values()]
    shares += [verdict.label_error / gates.label_error] if verdict.label_error is not None else []
    sentences = verdict.sentences
    for quality in (verdict.quality, sentences.masked if sentences else None):
        if quality:
            shares += [quality.kl_mean / gates.kl_mean, quality.kl_p99 / gates.kl_p99]
            shares += [(1 - quality.top5) / (1 - gates.top5)]
            shares += [(1 - quality.top1) / (1 - gates.top1)] if quality.top1 is not None else []
    if sentences:
        shares += [(1 - sentences.token_p01) / (1 - gates.token_p01)]
        shares += [(1 - sentences.vector_mean) / (1 - gates.vector_mean)]
        shares += [(1 - sentences.order) / (1 - gates.order)] if sentences.order is not None else []
    return max(shares)
