"""Which task an artifact was exported for, and what to use it with."""

from yizhi.errors import InputError
from yizhi.model.label_heads import ANSWER, SEQUENCE, TOKENS
from yizhi.runtimes.base import Runtime

FILL_MASK, FEATURES, REPLACED = "fill-mask", "features", "replaced-token-detection"

# What the checkpoint of each task is, and the command and the class for it.
_USES = {
    FILL_MASK: ("is a masked-language model: it gives words", "fill-mask", "FillMask"),
    SEQUENCE: ("is a classifier: it gives labels of whole texts", "classify", "Classifier"),
    TOKENS: ("is a tagger: it gives labels of words", "tag", "Tagger"),
    ANSWER: ("is a reader: it gives the start and the end of an answer", "answer", "Reader"),
    REPLACED: ("is a discriminator: it says which tokens were replaced, not by what", "tag", "Tagger"),
    FEATURES: ("has no head: it gives hidden states", "embed", "Embedder"),
}


def require_task(runtime: Runtime, purpose: str, *tasks: str) -> None:
    """Raise InputError, naming what the artifact is good for, unless it was exported for one of these tasks."""
    task = runtime.artifact.description["task"]
    if task in tasks:
        return
    what, command, name = _USES.get(task, (f"has a head for {task}", "inspect", "open_runtime"))
    raise InputError(
        runtime.artifact.folder, f"cannot {purpose}: the checkpoint {what}; use `yizhi {command}` (yizhi.{name})"
    )
