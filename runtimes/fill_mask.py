"""What a [MASK] hides: the most likely tokens and the sentences they make."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from runtimes.base import Runtime
from runtimes.tokenization import Tokenizer

_WITHOUT_HEAD = {
    "features": "the checkpoint has no masked-language-model head: it gives hidden states, not words",
    "replaced-token-detection": "the checkpoint is a discriminator: it says which tokens were replaced, not by what",
}


@dataclass(frozen=True)
class Prediction:
    """One candidate for one [MASK].

    score: its probability, from a softmax over the whole vocabulary.
    sentence: the text with this [MASK] filled in, and the others as they were.
    """

    token: str
    token_id: int
    score: float
    sentence: str


class FillMask:
    """Fill-mask on an opened artifact. Thread-safe where the runtime is."""

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer) -> None:
        """Raises InputError where the artifact has no masked-language-model head."""
        task = runtime.artifact.description["task"]
        if task != "fill-mask":
            reason = _WITHOUT_HEAD.get(task, f"the checkpoint's head does {task}")
            raise InputError(runtime.artifact.folder, f"cannot fill masks: {reason}")
        self._runtime = runtime
        self._tokenizer = tokenizer

    def __call__(self, text: str, top_k: int = 5) -> list[list[Prediction]]:
        """For each [MASK] in the text, in its order, the `top_k` most likely tokens, best first.

        Each mask is judged with the others still hidden. Equal scores are ordered by id.
        Raises InputError where the text has no [MASK] or is too long, or `top_k` is out of range.
        """
        size = len(self._tokenizer.vocab)
        if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= size:
            raise InputError("top_k", f"expected 1 … {size}; found {top_k!r}")
        encoded = self._tokenizer.encode([text])
        positions = np.flatnonzero(encoded.inputs.input_ids[0] == self._tokenizer.mask_id)
        if not len(positions):
            raise InputError("the text", f"has no [MASK] to fill: {text!r}")
        logits = self._runtime.run(encoded.inputs, ["logits"])["logits"][0]  # [T, V]
        return [self._predict(text, logits[position], encoded.offsets[0, position], top_k) for position in positions]

    def _predict(self, text: str, logits: NDArray, offsets: NDArray[np.int64], top_k: int) -> list[Prediction]:
        scores = softmax(logits)
        begin, end = offsets
        predictions = []
        for token_id in np.argsort(-scores, kind="stable")[:top_k].tolist():
            token = self._tokenizer.vocab[token_id]
            sentence = text[:begin] + token.removeprefix("##") + text[end:]
            predictions.append(Prediction(token, token_id, float(scores[token_id]), sentence))
        return predictions


def softmax(logits: NDArray) -> NDArray[np.float64]:
    """exp(x) / Σ exp(x) over the last axis, in float64, shifted by the largest so that nothing overflows."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
