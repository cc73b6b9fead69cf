"""Verdict: the findings about one artifact, and whether it passes."""

from dataclasses import dataclass, field

from yizhi.model.spec import MATCH_LOGITS
from yizhi.parity.compare import Difference, Quality
from yizhi.parity.record import Diagnosis, Integers, Plausibility, PublishedCheck, VerificationRecord, WeightAudit
from yizhi.parity.sentence_quality import SentenceQuality, judge_sentences
from yizhi.parity.tolerances import FloatTolerance, QuantizedGates, describe_requirement, find_gates


@dataclass
class Verdict:
    """The findings about one artifact.

    differences: one per case, signature and output.
    change_alone: the largest change in a row's default outputs when the row is run alone, unpadded.
    quality, cosine, label_error: of a quantized artifact, for its gates. cosine is the lowest, per output, and
    cosine_mean the mean. sentences: the same on everyday sentences, if the vocabulary has them.
    wrong_text: faults of its tokenizer files, labels, pooling and answers.
    wrong_weights: faults of its stored tensors.
    too_coarse: whether its gates refuse it although its integers and its numbers are right.
    integers: the sums of a quantized artifact's kernels. weights: how its stored tensors were compared.
    settings: how the framework computed, by its own words. If this precision has no `gates` on this device, errors are
    measured and nothing passes.
    """

    precision: str
    device: str
    differences: list[Difference] = field(default_factory=list)
    change_alone: float = 0.0
    quality: Quality | None = None
    cosine: dict[str, float] = field(default_factory=dict)
    cosine_mean: dict[str, float] = field(default_factory=dict)
    label_error: float | None = None
    sentences: SentenceQuality | None = None
    integers: Integers | None = None
    weights: WeightAudit = field(default_factory=WeightAudit)
    settings: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    wrong_text: list[str] = field(default_factory=list)
    wrong_weights: list[str] = field(default_factory=list)
    too_coarse: bool = False

    @property
    def gates(self) -> FloatTolerance | QuantizedGates | None:
        """The gates for this precision and device. None if there are none."""
        return find_gates(self.precision, self.device)

    @property
    def passed(self) -> bool:
        """Whether everything was compared and judged, and nothing failed."""
        return bool(self.differences) and not self.faults and self.gates is not None

    @property
    def not_judged(self) -> bool:
        """Whether everything ran and there are no gates."""
        return self.gates is None and not self.faults

    def worst(self) -> dict[str, Difference]:
        """Per output, the difference that used most of its tolerance (or, not judged, the largest)."""
        result: dict[str, Difference] = {}
        for difference in self.differences:
            kept = result.get(difference.output)
            if kept is None or difference.rank > kept.rank:
                result[difference.output] = difference
        return result

    def first_bad_layer(self) -> str | None:
        """The first hidden state that failed: the place to look for the mistake."""
        layers = sorted(
            (name for name in self.worst() if "hidden_states." in name),  # the text's, and an image's
            key=lambda name: (int(name.rpartition(".")[2]), name),
        )
        return next((name for name in layers if name in self.failed_outputs()), None)

    @property
    def labels(self) -> str:
        """The output that `label_error` is of."""
        return MATCH_LOGITS if any(found.output == MATCH_LOGITS for found in self.differences) else "logits"

    def failed_outputs(self) -> set[str]:
        """The outputs that differ too much, element by element or, for int8 ones but logits, in direction."""
        gates = self.gates
        worst = self.worst().items()
        failed = {name for name, found in worst if found.fault or (gates is not None and not found.passed)}
        if isinstance(gates, QuantizedGates) and self.label_error is not None and self.label_error > gates.label_error:
            failed.add(self.labels)
        if isinstance(gates, QuantizedGates):
            failed |= {name for name, cosine in self.cosine.items() if not cosine >= gates.cosine}
            failed |= {name for name, cosine in self.cosine_mean.items() if not cosine >= gates.cosine_mean}
            if self.sentences and judge_sentences(self.sentences, gates):
                failed.add("last_hidden_state")
        return failed

    def record(
        self,
        diagnosis: Diagnosis | None = None,
        published: PublishedCheck | None = None,
        head: Plausibility | None = None,
    ) -> VerificationRecord:
        """The verdict with the worst difference per output, and the other checks.

        The result of bisecting follows the first fault. Differences from published numbers are faults, too.
        """
        gates, worst = self.gates, self.worst()
        faults = [*self.faults[:1], *(diagnosis.explain() if diagnosis else []), *self.faults[1:]]
        if gates is None:
            what = f"{self.precision} on {self.device}"
            faults.append(f"not run: there is no tolerance for {what}; errors are not judged")
        usual = self.device != "cuda" and self.precision in ("fp32", "int8")
        faults += published.faults if published else []
        return VerificationRecord(
            passed=bool(worst) and not faults,
            not_judged=self.not_judged,
            precision=self.precision,
            device=self.device,
            settings=self.settings,
            faults=faults,
            first_bad_layer=self.first_bad_layer(),
            worst=worst,
            change_alone=self.change_alone,
            quality=self.quality,
            cosine=self.cosine,
            cosine_mean=self.cosine_mean,
            label_error=self.label_error,
            sentences=self.sentences,
            integers=self.integers,
            weights=self.weights,
            tolerance=gates,
            requirement=None if usual or gates is None else describe_requirement(self.precision),
            diagnosis=diagnosis,
            published=published,
            head=head,
        )
