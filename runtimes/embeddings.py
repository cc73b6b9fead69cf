"""Texts to vectors: one layer or the mean of several, pooled over the text's own tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.choices import TEXT_POOLINGS, TextPooling
from yizhi.errors import InputError
from yizhi.model.spec import SENTENCE_EMBEDDING, SHORTEST_NORM, SPLADE, Pooling
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import EVERY, TOKENS, WINDOW, Request, Task, run_tasks
from yizhi.runtimes.prompts import find_prompt, put_before
from yizhi.runtimes.tokenization import Long, Text, Tokenizer, pad

Vectors = NDArray[np.float32]


class Embedder:
    """Embeds texts with an opened artifact. Thread-safe if the runtime is.

    The last layer alone is cheapest. Any other layer uses the artifact's `hidden_states` signature, which computes the
    head, too. For a masked-language model the head takes a sixth more.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer | None = None,
        *,
        layers: Sequence[int] = (-1,),
        pooling: TextPooling | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        prompt: str | None = None,
        long: Long = "error",
    ) -> None:
        """Uses the artifact's own tokenizer if `tokenizer` is None.

        layers: the hidden states to average: 0 is the embedding layer, 1 … L the layers, −1 the last.
        pooling: over the text's tokens with [CLS] and [SEP], never padding. `cls` takes the first token, `last` the
        last, and `none` all. None: the pooling of the artifact's `sentence_embedding`, or `mean` if the artifact has
        none.
        dimensions: keep the first `dimensions` numbers. None: as the artifact does with this pooling.
        normalize: then make each vector's L2 norm 1. None: as the artifact does with this pooling, else no.
        prompt: a text before each text, or the name of one of the artifact's prompts.
        long: `error` or `truncate`, for a text that is too long for the model.
        Raises InputError, listing every fault: layers or a pooling that do not exist; a one-word prompt that is no
        prompt's name; and, for an artifact with Dense modules, settings that would leave the modules out: another
        layer, another pooling but `none`, or no norm.
        """
        count = runtime.config.depth
        faults = [
            f"`layers`: expected {-count - 1} … {count}; found {layer}"
            for layer in layers
            if not -count - 1 <= layer <= count
        ]
        if not layers:
            faults.append("`layers`: expected one or more; found none")
        own = runtime.pooling
        wanted, alike = _complete(own, pooling, normalize, dimensions)
        if wanted.mode not in TEXT_POOLINGS:
            faults.append(f"`pooling`: expected one of {', '.join(TEXT_POOLINGS)}; found {wanted.mode!r}")
        if long not in ("error", "truncate"):
            faults.append(f"`long`: expected error or truncate; found {long!r}")
        outputs = [_output(layer % (count + 1), count) for layer in layers]
        hidden = runtime.config.hidden_size
        # What the artifact pools itself, Dense modules and all; a batch then hands over [B, D], not [B, T, H].
        inside = alike if outputs == ["last_hidden_state"] else None
        if own and own.dense and wanted.mode != "none":
            inside = own
            if not faults:
                faults += _leave_out_dense(own, wanted, layers, outputs)
        elif inside and not _reaches(inside, wanted, hidden):
            inside = None
        size = inside.size(hidden) if inside else hidden
        if wanted.dimensions is not None and not 0 < wanted.dimensions <= size:
            faults.append(f"`dimensions`: expected 1 … {size}; found {wanted.dimensions}")
        self._prompt = find_prompt(runtime, prompt, faults)
        if faults:
            raise InputError("embeddings", faults)
        self.size = wanted.dimensions or size
        self._runtime = runtime
        self._tokenizer = tokenizer or Tokenizer.open(runtime.artifact.folder)
        self._outputs = outputs
        self._wanted = wanted
        self._long = long
        self._in_graph = inside is not None
        self._is_finished = inside == wanted

    def __call__(self, texts: Sequence[Text], *, window: int = WINDOW, tokens: int = TOKENS) -> Any:
        """One vector per text, float32 [N, size]. With pooling `none`: a list of [T, size], one vector per token.

        Each `window` of texts is sorted by length and computed in batches of at most `tokens` tokens. Raises InputError
        for a text that is too long.
        """
        if isinstance(texts, str):
            raise InputError("texts", "expected a list of texts or of pairs of texts; found one text")
        vectors = list(run_tasks(self, map(self.plan, texts), window=window, tokens=tokens))
        if self._wanted.mode == "none":
            return vectors
        return np.stack(vectors) if vectors else np.empty((0, self.size), np.float32)

    def plan(self, text: Text) -> Task[Vectors]:
        """The rows to compute for one text. Raises InputError for a text that cannot be used."""
        (row,) = self._tokenizer.fit(self._tokenizer.tokenize([put_before(self._prompt, text)])[0], self._long)
        return Task([Request(row, EVERY, self._pool)], lambda results: results[0])

    def compute(self, requests: Sequence[Request]) -> list[Vectors]:
        """One batch: [size] or, with pooling `none`, [T, size] of each request."""
        inputs = pad([request.row for request in requests], self._tokenizer.pad_id)
        if self._in_graph:
            pooled = self._runtime.run(inputs, [SENTENCE_EMBEDDING])[SENTENCE_EMBEDDING]
            return list(pooled if self._is_finished else self._finish(pooled))
        found = self._runtime.run(inputs, list(dict.fromkeys(self._outputs)))
        vectors = []
        for index, request in enumerate(requests):
            length = len(request.row.ids)
            layers = [found[name][index, :length] for name in self._outputs]
            mean: Vectors = layers[0] if len(layers) == 1 else np.mean(np.stack(layers), axis=0, dtype=np.float32)
            vectors.append(request.reduce(mean))
        return vectors

    def _pool(self, states: Vectors) -> Vectors:
        """[T, H] -> [size], or [T, size] with pooling `none`."""
        pool = {"cls": lambda: states[0], "last": lambda: states[-1], "none": lambda: states}
        pool |= {"mean": lambda: states.mean(axis=0), "max": lambda: states.max(axis=0)}
        return self._finish(pool[self._wanted.mode]())

    def _finish(self, vectors: Vectors) -> Vectors:
        """Cut and normalize. Returns a copy, because a view would keep the whole batch in memory."""
        vectors = vectors[..., : self._wanted.dimensions].copy()
        if self._wanted.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), SHORTEST_NORM)
        return vectors


def _complete(
    own: Pooling | None, pooling: str | None, normalize: bool | None, dimensions: int | None
) -> tuple[Pooling, Pooling | None]:
    """The settings, completed from the artifact's pooling. Also that pooling, if it has the same mode."""
    own = None if own and own.mode == SPLADE else own
    mode = pooling or (own.mode if own else "mean")
    alike = own if own and own.mode == mode else None
    found = alike or Pooling(mode)
    normalizes = found.normalize if normalize is None else normalize
    size = found.dimensions if dimensions is None else dimensions
    return replace(found, normalize=normalizes, dimensions=size), alike


def _leave_out_dense(own: Pooling, wanted: Pooling, layers: Sequence[int], outputs: Sequence[str]) -> list[str]:
    """The settings that would skip the artifact's Dense modules, a fault each."""
    rule = f"the artifact's Dense modules follow the {own.mode} of its last layer"
    faults = []
    if outputs != ["last_hidden_state"]:
        faults.append(f"`layers`: {rule}; found {', '.join(map(str, layers))}")
    if wanted.mode != own.mode:
        faults.append(f"`pooling`: {rule}; expected {own.mode}, or none for each token's vector; found {wanted.mode}")
    elif own.normalize and not wanted.normalize:
        faults.append("`normalize`: expected true, because the artifact gives only normalized vectors; found false")
    return faults


def _reaches(inside: Pooling, wanted: Pooling, hidden: int) -> bool:
    """Whether `inside`, cut and then normalized, gives `wanted`."""
    if inside == wanted:
        return True
    return wanted.size(hidden) <= inside.size(hidden) and (wanted.normalize or not inside.normalize)


def _output(layer: int, last: int) -> str:
    # They are the same values; asked for by this name, nothing after them is computed.
    return "last_hidden_state" if layer == last else f"hidden_states.{layer}"
