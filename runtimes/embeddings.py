"""Texts to vectors: any layer or the mean of several, pooled over the text's own tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.choices import TEXT_POOLINGS, TextPooling
from yizhi.errors import InputError
from yizhi.model.spec import SENTENCE_EMBEDDING, SHORTEST_NORM, Pooling
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import EVERY, TOKENS, WINDOW, Request, Task, run_tasks
from yizhi.runtimes.tokenization import Long, Text, Tokenizer, pad

Vectors = NDArray[np.float32]


class Embedder:
    """Embeds texts with an opened artifact. Thread-safe where the runtime is.

    Any layer but the last goes through the artifact's `hidden_states` signature, which computes the
    head as well: a sixth more for a masked-language model.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer | None = None,
        *,
        layers: Sequence[int] = (-1,),
        pooling: TextPooling | None = None,
        normalize: bool | None = None,
        long: Long = "error",
    ) -> None:
        """The artifact's own tokenizer if none is given.

        layers: which hidden states to average: 0 is the embedding layer, 1 … L the layers, −1 the last.
        pooling: over the text's tokens with [CLS] and [SEP], never padding; `cls` takes the first, `none` all.
        As the artifact's `sentence_embedding` if None, or `mean` where it has none.
        normalize: make each vector's L2 norm 1. If None, as the artifact does with this pooling, else no.
        long: what to do with a text beyond the model's positions, `error` or `truncate`.
        Raises InputError, listing every fault, for layers or a pooling that do not exist.
        """
        count = runtime.config.num_hidden_layers
        faults = [
            f"layers: expected {-count - 1} … {count}; found {layer}"
            for layer in layers
            if not -count - 1 <= layer <= count
        ]
        if not layers:
            faults.append("layers: expected one or more; found none")
        mode, normalize = _complete(runtime.pooling, pooling, normalize)
        if mode not in TEXT_POOLINGS:
            faults.append(f"pooling: expected one of {', '.join(TEXT_POOLINGS)}; found {mode!r}")
        if long not in ("error", "truncate"):
            faults.append(f"long: expected error or truncate; found {long!r}")
        if faults:
            raise InputError("embeddings", faults)
        self.size = runtime.config.hidden_size
        self._runtime = runtime
        self._tokenizer = tokenizer or Tokenizer.open(runtime.artifact.folder)
        self._outputs = [_output(layer % (count + 1), count) for layer in layers]
        self._pooling = mode
        self._normalize = normalize
        self._long = long
        # What the artifact pools itself is the same, and a batch then hands over [B, H], not [B, T, H].
        last = self._outputs == ["last_hidden_state"]
        self._in_graph = last and runtime.pooling == Pooling(mode, normalize)

    def __call__(self, texts: Sequence[Text], *, window: int = WINDOW, tokens: int = TOKENS) -> Any:
        """float32 [N, H], one vector per text; with pooling `none`, a list of [T, H], one vector per token.

        Batches of similar lengths are made inside each `window` of texts. Raises InputError for a text that
        is too long.
        """
        if isinstance(texts, str):
            raise InputError("texts", "expected a list of texts or of pairs of texts; found one text")
        vectors = list(run_tasks(self, map(self.plan, texts), window=window, tokens=tokens))
        if self._pooling == "none":
            return vectors
        return np.stack(vectors) if vectors else np.empty((0, self.size), np.float32)

    def plan(self, text: Text) -> Task[Vectors]:
        """What one text asks of the model. Raises InputError for a text that cannot be used."""
        (row,) = self._tokenizer.fit(self._tokenizer.tokenize([text])[0], self._long)
        return Task([Request(row, EVERY, self._pool)], lambda results: results[0])

    def compute(self, requests: Sequence[Request]) -> list[Vectors]:
        """One batch: [H] or, with pooling `none`, [T, H] of each request."""
        inputs = pad([request.row for request in requests], self._tokenizer.pad_id)
        if self._in_graph:
            return list(self._runtime.run(inputs, [SENTENCE_EMBEDDING])[SENTENCE_EMBEDDING])
        found = self._runtime.run(inputs, list(dict.fromkeys(self._outputs)))
        vectors = []
        for index, request in enumerate(requests):
            length = len(request.row.ids)
            layers = [found[name][index, :length] for name in self._outputs]
            mean: Vectors = layers[0] if len(layers) == 1 else np.mean(np.stack(layers), axis=0, dtype=np.float32)
            vectors.append(request.reduce(mean))
        return vectors

    def _pool(self, states: Vectors) -> Vectors:
        """[T, H] -> [H], or [T, H] with pooling `none`."""
        if self._pooling == "cls":
            pooled = states[0].copy()  # a view would keep the whole batch alive
        elif self._pooling == "none":
            pooled = states.copy()
        else:
            pooled = states.mean(axis=0) if self._pooling == "mean" else states.max(axis=0)
        if self._normalize:
            pooled /= np.maximum(np.linalg.norm(pooled, axis=-1, keepdims=True), SHORTEST_NORM)
        return pooled


def _complete(own: Pooling | None, pooling: str | None, normalize: bool | None) -> tuple[str, bool]:
    """The settings where what was left open is the artifact's own."""
    mode = pooling or (own.mode if own else "mean")
    return mode, bool(own and own.normalize and own.mode == mode) if normalize is None else normalize


def _output(layer: int, last: int) -> str:
    # They are the same values; asked for by this name, nothing after them is computed.
    return "last_hidden_state" if layer == last else f"hidden_states.{layer}"
