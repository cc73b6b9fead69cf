"""The score of a release's masked-language-model head: which artifact is scored, and the score in a sentence."""

from collections.abc import Mapping, Sequence

from yizhi.converters.targets import TARGETS
from yizhi.parity.record import Plausibility, VerificationRecord
from yizhi.runtimes.tasks import FEATURES, FILL_MASK, USES

# The head is scored once per release, through the artifact that is cheapest to run as the checkpoint means it.
_PREFERRED = ("onnx", "pytorch", "flax", "tensorflow", *TARGETS)


def choose_scorer(targets: Sequence[str]) -> str | None:
    """The target whose artifact scores the head; None if none of them can."""
    return min(targets, key=_PREFERRED.index, default=None)


def find_head(verdicts: Mapping[str, VerificationRecord | None]) -> tuple[str, Plausibility] | None:
    """Which of a release's verdicts (by target) has a score of the head, and that score; None if nothing was scored."""
    return next(((target, verdict.head) for target, verdict in verdicts.items() if verdict and verdict.head), None)


def is_trained(found: tuple[str, Plausibility] | None) -> bool:
    """Whether a head was scored and found trained."""
    return found is not None and found[1].verdict == "trained"


def describe_head(target: str, head: Plausibility) -> str:
    """The score and its meaning in a sentence. target: the one that was scored."""
    if head.task is not None and head.task not in (FILL_MASK, FEATURES):
        noun = USES[head.task].noun if head.task in USES else head.task
        return f"head: {noun}; all targets agree, which does not prove that it is right"
    told = {
        "absent": "absent: this checkpoint gives hidden states, and does not fill masks",
        "not judged": f"not judged: the vocabulary lacks characters of {head.skipped} everyday sentences, "
        f"which leaves {head.scored}",
    }
    if head.verdict in told:
        return f"MLM head: {told[head.verdict]}"
    # Three digits are what a manifest keeps: a verdict reads the same when it is new and when it was kept.
    figures = (
        f"{target} answered {head.hits} of {head.scored} everyday sentences among the first five, where {head.needed} "
        f"tell it from chance; mean log-probability {head.log_probability:.3g}, by chance {head.chance:.3g}"
    )
    skipped = f"; {head.skipped} sentences skipped" if head.skipped else ""
    if head.verdict == "trained":
        return f"MLM head: trained ({figures}{skipped})"
    return (
        f"Note: the MLM head is untrained ({figures}{skipped}). This is no failure: all targets agree on its answers. "
        "They are noise, as those of random weights are: fill no masks with it. Hidden states do not depend on it"
    )
