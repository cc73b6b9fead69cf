"""Texts to the vectors that retrieval compares, in one pass: dense, sparse, and one vector for each token."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.model.spec import SENTENCE_EMBEDDING, TERM_WEIGHTS, TOKEN_VECTORS, TOKEN_WEIGHTS
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import EVERY, TOKENS, WINDOW, Request, Task, run_tasks
from yizhi.runtimes.prompts import find_prompt, put_before
from yizhi.runtimes.tokenization import Long, Text, Tokenizer, pad

DENSE, SPARSE, MULTI_VECTOR = "dense", "sparse", "multi_vector"
# The outputs of a graph that give each kind.
_GIVE = {DENSE: (SENTENCE_EMBEDDING,), SPARSE: (TOKEN_WEIGHTS, TERM_WEIGHTS), MULTI_VECTOR: (TOKEN_VECTORS,)}


@dataclass(frozen=True)
class SparseVector:
    """Weights of a vocabulary's entries. ids: int64 [N], ascending. weights: float32 [N], above 0."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class TextVectors:
    """The vectors of one text. A kind that was not requested is None.

    dense: float32 [D]. multi_vector: float32 [T − 1, D], of all the text's tokens but the first.
    """

    dense: NDArray[np.float32] | None = None
    sparse: SparseVector | None = None
    multi_vector: NDArray[np.float32] | None = None


class RetrievalEmbedder:
    """Embeds texts with an artifact whose graph gives several vectors, or a sparse vector.

    Thread-safe if the runtime is.

    `dense` is `sentence_embedding`. With BGE-M3's heads (Chen et al. 2024, arXiv:2402.03216), `sparse` has the highest
    of the `token_weights` of each id, without [CLS], [SEP], padding and the unknown token. `multi_vector` is
    `token_vectors` without the first token's. FlagEmbedding does the same. With SPLADE, `sparse` is `term_weights`.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer | None = None,
        *,
        kinds: Collection[str] | None = None,
        prompt: str | None = None,
        long: Long = "error",
    ) -> None:
        """Uses the artifact's own tokenizer if `tokenizer` is None.

        kinds: some of `dense`, `sparse` and `multi_vector`; None for all that the artifact gives.
        prompt: a text before each text, or the name of one of the artifact's prompts.
        long: `error` or `truncate`, for a text that is too long for the model.
        Raises InputError for kinds that the artifact does not give, and for a one-word prompt that is no prompt's name.
        """
        given = {kind: next((name for name in names if name in runtime.outputs), None) for kind, names in _GIVE.items()}
        wanted = [kind for kind, name in given.items() if name] if kinds is None else list(kinds)
        faults = [
            f"{kind}: expected one of the outputs {', '.join(_GIVE[kind])}; found {', '.join(runtime.outputs)}"
            if kind in _GIVE
            else f"{kind}: expected one of {', '.join(_GIVE)}"
            for kind in wanted
            if not given.get(kind)
        ]
        if not wanted:
            faults.append(f"kinds: expected one or more; the artifact's outputs are {', '.join(runtime.outputs)}")
        if long not in ("error", "truncate"):
            faults.append(f"long: expected error or truncate; found {long!r}")
        self._prompt = find_prompt(runtime, prompt, faults)
        if faults:
            raise InputError("embeddings", faults)
        self.kinds = tuple(wanted)
        self._runtime = runtime
        self._tokenizer = tokenizer or Tokenizer.open(runtime.artifact.folder)
        self._outputs = [name for kind, name in given.items() if name and kind in wanted]
        ids = (self._tokenizer.cls_id, self._tokenizer.sep_id, self._tokenizer.pad_id, self._tokenizer.unknown_id)
        self._without_weight = np.array(ids)
        self._long = long

    def __call__(self, texts: Sequence[Text], *, window: int = WINDOW, tokens: int = TOKENS) -> list[TextVectors]:
        """The vectors of each text, in the order of the texts. `window` and `tokens` as in `Embedder`.

        Raises InputError for a text that is too long.
        """
        if isinstance(texts, str):
            raise InputError("texts", "expected a list of texts or of pairs of texts; found one text")
        return list(run_tasks(self, map(self.plan, texts), window=window, tokens=tokens))

    def plan(self, text: Text) -> Task[TextVectors]:
        """The rows to compute for one text. Raises InputError for a text that cannot be used."""
        (row,) = self._tokenizer.fit(self._tokenizer.tokenize([put_before(self._prompt, text)])[0], self._long)
        return Task([Request(row, EVERY, lambda found: found)], lambda results: results[0])

    def compute(self, requests: Sequence[Request]) -> list[TextVectors]:
        """One batch."""
        inputs = pad([request.row for request in requests], self._tokenizer.pad_id)
        found = self._runtime.run(inputs, self._outputs)
        return [
            self._read(request.row.ids, {name: array[index] for name, array in found.items()})
            for index, request in enumerate(requests)
        ]

    def _read(self, ids: NDArray[np.int64], found: dict[str, Any]) -> TextVectors:
        """Of one row's outputs. Copies, since views would keep the whole batch alive."""
        sparse = None
        if TOKEN_WEIGHTS in found:
            sparse = self._highest(ids, found[TOKEN_WEIGHTS][: len(ids)])
        elif TERM_WEIGHTS in found:
            terms = np.flatnonzero(found[TERM_WEIGHTS] > 0)
            sparse = SparseVector(terms, found[TERM_WEIGHTS][terms])
        dense = found[SENTENCE_EMBEDDING].copy() if SENTENCE_EMBEDDING in found else None
        vectors = found[TOKEN_VECTORS][1 : len(ids)].copy() if TOKEN_VECTORS in found else None
        return TextVectors(dense, sparse, vectors)

    def _highest(self, ids: NDArray[np.int64], weights: NDArray[np.float32]) -> SparseVector:
        """Each id once, with the highest of its weights above 0."""
        counts = ~np.isin(ids, self._without_weight) & (weights > 0)
        terms, places = np.unique(ids[counts], return_inverse=True)
        highest = np.zeros(len(terms), np.float32)
        np.maximum.at(highest, places, weights[counts])
        return SparseVector(terms, highest)


def score_dense(one: TextVectors, other: TextVectors) -> float:
    """The product of two texts' dense vectors: their cosine if the artifact normalizes. Raises InputError."""
    first, second = _both(DENSE, one.dense, other.dense)
    return float(first @ second)


def score_sparse(one: TextVectors, other: TextVectors) -> float:
    """The sum of the products of weights, over the ids that both texts have. Raises InputError."""
    first, second = _both(SPARSE, one.sparse, other.sparse)
    _, here, there = np.intersect1d(first.ids, second.ids, assume_unique=True, return_indices=True)
    return float(first.weights[here] @ second.weights[there])


def score_multi_vector(one: TextVectors, other: TextVectors) -> float:
    """The mean, over the first text's vectors, of the highest product with a vector of the second text.

    0 if either text has no vectors. Khattab & Zaharia 2020, arXiv:2004.12832, equation 3, divided by the number of
    vectors. Raises InputError.
    """
    first, second = _both(MULTI_VECTOR, one.multi_vector, other.multi_vector)
    return float((first @ second.T).max(axis=1).mean()) if len(first) and len(second) else 0.0


def _both(kind: str, one: Any, other: Any) -> tuple[Any, Any]:
    if one is None or other is None:
        raise InputError("vectors", f"expected {kind} of both texts; name it in RetrievalEmbedder's `kinds`")
    return one, other
