"""The operators of commands as plain values: any process can open the same operator from them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from yizhi import runtimes
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.runtimes.batching import Computer, Task, run_tasks
from yizhi.runtimes.tokenization import Text
from yizhi.storage.digests import sha256_of_file


class RowOperator(Computer, Protocol):
    """An operator for one text, two texts, or words. It checks its rows."""

    def plan(self, given: Any, /) -> Task[Any]:
        """Raises InputError for a row that cannot be used."""


@dataclass(frozen=True)
class Kind:
    """How one kind of operator is made, and how its results become output rows.

    make: the class in `runtimes`, called with an opened runtime and the settings.
    columns: name -> kind (see `writers`) of an output row, from the settings.
    make_row: one result's columns, all but `row`.
    is_vector: whether, with these settings, each result is one vector.
    identify: a short form of the settings, to compare when a run resumes.
    """

    make: Callable[..., RowOperator]
    columns: Callable[[Mapping[str, Any]], dict[str, str]]
    make_row: Callable[[Any], dict[str, Any]]
    is_vector: Callable[[Mapping[str, Any]], bool] = lambda settings: False
    identify: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict


@dataclass(frozen=True)
class OperatorSpec:
    """One kind of operator on one artifact. Plain values only, so it can be pickled and compared.

    kind: one of KINDS. settings: arguments of the kind's class beyond the runtime; JSON values.
    """

    kind: str
    artifact: Path
    settings: Mapping[str, Any]
    device: str = "cpu"
    threads: int | None = None

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The kind's operator, with its runtime open for the block. Raises InputError if the two do not fit."""
        with runtimes.open_runtime(self.artifact, device=self.device, threads=self.threads) as runtime:
            yield KINDS[self.kind].make(runtime, **self.settings)

    @property
    def columns(self) -> dict[str, str]:
        """Name -> kind (see `writers`) of an output row."""
        return {"row": "row", **KINDS[self.kind].columns(self.settings)}

    @property
    def width(self) -> int:
        """The width of each vector, if `is_vector`. Loads nothing. Raises InputError as `open` does."""
        unopened = runtimes.Runtime(Artifact.read(self.artifact))
        size: int = KINDS[self.kind].make(unopened, **self.settings).size  # type: ignore[attr-defined]
        return size

    @property
    def is_vector(self) -> bool:
        """Whether each result is one vector, `embedding`, which an array file can hold."""
        return KINDS[self.kind].is_vector(self.settings)

    def make_row(self, result: Any) -> dict[str, Any]:
        """One result's columns, all but `row`."""
        return KINDS[self.kind].make_row(result)

    def identity(self) -> dict[str, Any]:
        """All values that change the answers."""
        artifact = sha256_of_file(self.artifact / DESCRIPTION)
        return {
            "kind": self.kind,
            "artifact": artifact,
            "device": self.device,
            **KINDS[self.kind].identify(self.settings),
        }


class _VectorRows:
    """`RetrievalEmbedder` with output rows: the tokenizer writes tokens as text."""

    def __init__(self, runtime: runtimes.Runtime, **settings: Any) -> None:
        tokenizer = runtimes.Tokenizer.open(runtime.artifact.folder)
        self._embedder = runtimes.RetrievalEmbedder(runtime, tokenizer, **settings)
        self._vocab = tokenizer.vocab
        self.compute = self._embedder.compute

    def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        return list(run_tasks(self, map(self.plan, texts)))

    def plan(self, given: Text) -> Task[dict[str, Any]]:
        """As the embedder's. Raises InputError for a text that cannot be used."""
        task = self._embedder.plan(given)
        return Task(task.requests, lambda results: self._write(task.conclude(results)))

    def _write(self, found: runtimes.TextVectors) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        if found.dense is not None:
            columns["embedding"] = found.dense
        if found.sparse is not None:
            ids = found.sparse.ids.tolist()
            tokens = [self._vocab[index] for index in ids]
            columns["sparse"] = {"token_ids": ids, "tokens": tokens, "weights": found.sparse.weights}
        if found.multi_vector is not None:
            columns["multi_vector"] = list(found.multi_vector)
        return columns


# Kind of vector -> its column, and the column's kind.
_VECTOR_COLUMNS = {
    "dense": ("embedding", "vector"),
    "sparse": ("sparse", "sparse"),
    "multi_vector": ("multi_vector", "vectors"),
}


def _embedding_row(vector: Any) -> dict[str, Any]:
    return {"embedding": vector if vector.ndim == 1 else list(vector)}


def _masks_row(answers: list[list[runtimes.Prediction]]) -> dict[str, Any]:
    return {"masks": [[_describe_prediction(prediction) for prediction in mask] for mask in answers]}


def _describe_prediction(prediction: runtimes.Prediction) -> dict[str, Any]:
    """A prediction with the second text of a pair in a field of its own, so that a field has one type."""
    pair = isinstance(prediction.sentence, tuple)
    sentences = {"sentence": prediction.sentence[0], "sentence_pair": prediction.sentence[1]} if pair else {}
    return {**vars(prediction), **sentences}


def _identify_ranking(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The documents by their digest: a run writes its identity after each window."""
    documents = json.dumps(settings["documents"]).encode()
    return {**settings, "documents": hashlib.sha256(documents).hexdigest()}


def _listing(make: Callable[..., RowOperator], name: str, **more: Any) -> Kind:
    """A kind that gives lists of dataclasses: one column, whose kind is called as it is."""
    return Kind(
        make=make,
        columns=lambda _: {name: name},
        make_row=lambda results: {name: [vars(result) for result in results]},
        **more,
    )


KINDS: Mapping[str, Kind] = {
    "embed": Kind(
        make=runtimes.Embedder,
        columns=lambda settings: {"embedding": "vectors" if settings["pooling"] == "none" else "vector"},
        make_row=_embedding_row,
        is_vector=lambda settings: settings["pooling"] != "none",
    ),
    "vectors": Kind(
        make=_VectorRows,
        columns=lambda settings: dict(_VECTOR_COLUMNS[kind] for kind in _VECTOR_COLUMNS if kind in settings["kinds"]),
        make_row=dict,
    ),
    "fill-mask": Kind(make=runtimes.FillMask, columns=lambda _: {"masks": "masks"}, make_row=_masks_row),
    "classify": _listing(runtimes.Classifier, "labels"),
    "tag": _listing(runtimes.Tagger, "entities"),
    "tag-words": _listing(runtimes.WordTagger, "tags"),
    "answer": _listing(runtimes.Reader, "answers"),
    "rank": _listing(runtimes.Ranker, "documents", identify=_identify_ranking),
    "rerank": Kind(make=runtimes.Reranker, columns=lambda _: {"score": "score", "logit": "score"}, make_row=vars),
}
