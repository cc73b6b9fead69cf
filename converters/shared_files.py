"""Files and facts of every artifact of any target: the configuration, the tokenizer, and the interface."""

from typing import Any

from yizhi.model.label_heads import ANSWER, describe_labels
from yizhi.model.spec import COLUMNS, LOGITS_AT, POSITIONS, SPAN_LOGITS, STEP, EncoderSpec, MaskedLMHead
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter
from yizhi.storage.codec import to_plain
from yizhi.storage.json_files import to_json

CONFIG = "config.json"


def shared_files(checkpoint: Checkpoint) -> dict[str, str | bytes]:
    """File name -> content of `config.json` as transformers reads it, and of the tokenizer's files."""
    return {CONFIG: to_json(checkpoint.published_config()), **checkpoint.tokenizer_files()}


def write_config_and_tokenizer(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """Write `shared_files`."""
    for name, data in shared_files(checkpoint).items():
        writer.write(name, data)


def describe_interface(spec: EncoderSpec, tokens: int, steps: bool = False) -> dict[str, Any]:
    """Inputs, outputs and labels for `artifact.json`.

    tokens: the size of the vocabulary, which may be smaller than the embeddings' rows. steps: the target's.
    """
    signatures = {name: list(outputs) for name, outputs in spec.signatures().items()}
    return {
        "task": spec.task,
        "inputs": {name: list(axes) for name, axes in spec.input_axes().items()},
        "outputs": {name: list(spec.output_axes(name)) for names in signatures.values() for name in names},
        "signatures": signatures,
        **_describe_logits_at(spec),
        **(_describe_step(spec) if steps and spec.steps else {}),
        **describe_pooling(spec),
        **describe_labels(spec),
        **({"tokens": tokens} if tokens < spec.config.vocab_size else {}),
    }


# What `describe_interface` leaves out where there is nothing to say.
OPTIONAL = (LOGITS_AT, STEP, "pooling", "labels", "problem_type", "tokens")


def describe_pooling(spec: EncoderSpec) -> dict[str, Any]:
    """`sentence_embedding` for `artifact.json`, if there is one."""
    return {"pooling": to_plain(spec.pooling)} if spec.pooling else {}


def _describe_logits_at(spec: EncoderSpec) -> dict[str, Any]:
    """The signature with an input of its own, where there is a masked-language-model head."""
    if not isinstance(spec.head, MaskedLMHead):
        return {}
    return {LOGITS_AT: {"inputs": {POSITIONS: ["count", 2]}, "outputs": {"logits": ["count", spec.head.vocab_size]}}}


def _describe_step(spec: EncoderSpec) -> dict[str, Any]:
    """The shape of the cache: keys and values [batch, heads, tokens before, head_size] of each layer."""
    heads, size = spec.config.num_key_value_heads, spec.config.head_size
    return {STEP: {"layers": len(spec.layers), "heads": heads, "head_size": size}}


def say_columns(writer: ArtifactWriter, spec: EncoderSpec) -> None:
    """Say which columns of a reader's logits the default graph gives under names of their own."""
    if spec.task == ANSWER:
        writer.say(COLUMNS, {name: column for column, name in enumerate(SPAN_LOGITS)})
