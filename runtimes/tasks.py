"""The task that an artifact was exported for, and the command and class for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from yizhi.errors import InputError
from yizhi.model.label_heads import ANSWER, SEQUENCE, TOKENS
from yizhi.runtimes.base import Runtime

FILL_MASK, FEATURES, REPLACED = "fill-mask", "features", "replaced-token-detection"
GENERATION = "text-generation"


@dataclass(frozen=True)
class Use:
    """The noun for a checkpoint of a task, what the checkpoint gives, and `yizhi`'s command and class for it."""

    noun: str
    gives: str
    command: str
    class_name: str


USES: Mapping[str, Use] = {
    FILL_MASK: Use("masked-language model", "gives words", "fill-mask", "FillMask"),
    SEQUENCE: Use("classifier", "gives labels of whole texts", "classify", "Classifier"),
    TOKENS: Use("tagger", "gives labels of words", "tag", "Tagger"),
    ANSWER: Use("reader", "gives the start and the end of an answer", "answer", "Reader"),
    REPLACED: Use("discriminator", "says which tokens were replaced, not by what", "tag", "Tagger"),
    GENERATION: Use("causal language model", "gives logits of each next token", "embed", "Embedder"),
    FEATURES: Use("bare encoder", "gives hidden states", "embed", "Embedder"),
}


def require_task(runtime: Runtime, purpose: str, *tasks: str) -> None:
    """Raise InputError unless the artifact was exported for one of these tasks. The error names the right command."""
    task = runtime.artifact.description["task"]
    if task in tasks:
        return
    use = USES.get(task)
    why = f"is a {use.noun}: it {use.gives}" if use else f"has a head for {task}, which this version does not know"
    instead = f"; use `yizhi {use.command}` (yizhi.{use.class_name})" if use else ""
    raise InputError(runtime.artifact.folder, f"cannot {purpose}: the checkpoint {why}{instead}")
