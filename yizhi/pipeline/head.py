"""What a release says of its masked-language-model head: which artifact is asked, and how the answer is told."""

from collections.abc import Iterable, Sequence

from yizhi.converters.targets import TARGETS
from yizhi.parity.record import Plausibility, VerificationRecord
from yizhi.runtimes.tasks import FEATURES, FILL_MASK, USES

# The head is scored once per release, through the artifact that is cheapest to run as the checkpoint means it.
_PREFERRED = ("onnx", "pytorch", "flax", "tensorflow", *TARGETS)


def choose_scorer(targets: Sequence[str]) -> str | None:
    """Which of these targets to score the head through; None where there is none."""
    return min(targets, key=_PREFERRED.index, default=None)


def find_head(verdicts: Iterable[VerificationRecord | None]) -> Plausibility | None:
    """The score among a release's verdicts (see `yizhi.parity.plausibility`), or None if nothing was scored."""
    return next((verdict.head for verdict in verdicts if verdict and verdict.head), None)


def is_trained(head: Plausibility | None) -> bool:
    """Whether a head was scored and found trained."""
    return head is not None and head.verdict == "trained"


def describe_head(head: Plausibility) -> str:
    """The score in a sentence, with what follows from it."""
    if head.task is not None and head.task not in (FILL_MASK, FEATURES):
        noun = USES[head.task].noun if head.task in USES else head.task
        return f"head: {noun}; that all targets agree does not say that it is right"
    told = {
        "absent": "absent: this checkpoint gives hidden states, and does not fill masks",
        "not judged": f"not judged: the vocabulary lacks characters of {head.skipped} everyday sentences, "
        f"which leaves {head.scored}",
    }
    if head.verdict in told:
        return f"MLM head: {told[head.verdict]}"
    figures = (
        f"{head.hits} of {head.scored} everyday sentences answered among the first five, where {head.needed} "
        f"tell it from chance; mean log-probability {head.log_probability:.2f}, by chance {head.chance:.2f}"
    )
    skipped = f"; {head.skipped} sentences skipped" if head.skipped else ""
    if head.verdict == "trained":
        return f"MLM head: trained ({figures}{skipped})"
    return (
        f"WARNING: MLM head: UNTRAINED ({figures}{skipped}). Every target agrees on its answers, and they are noise: "
        "do not use it to fill masks. Hidden states do not depend on it"
    )
