"""The oracle behind the interface of an artifact, so that it can answer texts."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from yizhi.model.label_heads import describe_labels
from yizhi.model.spec import LOGITS_AT, MaskedLMHead, Pooling
from yizhi.parity import oracle
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.runtimes.base import Inputs, Runtime


class OracleRuntime(Runtime):
    """A checkpoint as a runtime in float64. parameters: the checkpoint's, if they were read before."""

    def __init__(self, checkpoint: Checkpoint, parameters: oracle.Parameters) -> None:
        spec = checkpoint.spec
        signatures = spec.signatures()
        self.artifact = Artifact(
            checkpoint.folder,
            {
                "target": "oracle",
                "task": spec.task,
                "signatures": {name: list(outputs) for name, outputs in signatures.items()},
                "outputs": {name: list(spec.output_axes(name)) for names in signatures.values() for name in names},
                "tokens": len(checkpoint.text.vocab),
                **({LOGITS_AT: {}} if isinstance(spec.head, MaskedLMHead) else {}),
                **describe_labels(spec),
            },
        )
        self.config = checkpoint.config
        self.device, self.threads, self.math = "cpu", None, "strict"
        self._checkpoint, self._parameters = checkpoint, parameters

    @property
    def pooling(self) -> Pooling | None:
        """What `sentence_embedding` is."""
        return self._checkpoint.spec.pooling

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        return oracle.run(self._checkpoint, inputs, set(outputs), parameters=self._parameters)

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        found = oracle.run(self._checkpoint, inputs, {"logits"}, positions, self._parameters)
        return found["logits"].astype(np.float32)
