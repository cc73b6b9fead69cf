"""Sentence embeddings: from a checkpoint and scored pairs (CoSENT) or plain text (SimCSE) to an encoder.

Both objectives train the vectors that `yizhi embed` gives: the last layer's hidden states, pooled. No layer is added on
top, not even while training. So the result is a checkpoint without a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.batching import make_batches
from yizhi.runtimes.tokenization import Row, Tokenizer, pad
from yizhi.storage.digests import sha256_of_file
from yizhi.storage.folders import new_folder
from yizhi.storage.records import Source, plain_text
from yizhi.training import loop, transformers_models
from yizhi.training.batches import LengthGroupedBatches
from yizhi.training.choices import EMBEDDING_POOLINGS, OBJECTIVES
from yizhi.training.features import open_tokenizer
from yizhi.training.methods import Full
from yizhi.training.settings import Settings
from yizhi.training.similarity import cosines, find_matches, rank_correlation, retrieval
from yizhi.training.work import RECORD, work_folder, write_record

_EVALUATION_TOKENS = 4096
_MOST_FAULTS = 20


def cosent_loss(vectors: torch.Tensor, scores: torch.Tensor, scale: float = 20.0) -> torch.Tensor:
    """log(1 + Σ exp(λ (cos(pair k) − cos(pair i)))) over all i, k for which pair i has the higher score.

    vectors: [2N, H], the two of a pair side by side. scores: [N]. scale: λ. Zero if all scores are equal.
    Source: Su Jianlin, CoSENT, kexue.fm/archives/8847.
    """
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    cosine = scale * (unit[0::2] * unit[1::2]).sum(-1)
    wrong = cosine[None, :] - cosine[:, None]  # [i, k]
    counted = wrong[scores[:, None] > scores[None, :]]
    return torch.logsumexp(torch.cat([counted.new_zeros(1), counted]), 0)


def simcse_loss(vectors: torch.Tensor, temperature: float = 0.05) -> torch.Tensor:
    """The mean over texts i of −log(exp(cos(i, i′) / τ) / Σ_j exp(cos(i, j′) / τ)).

    vectors: [2N, H], two of each text side by side, which differ only by dropout. temperature: τ.
    Source: SimCSE, unsupervised, arXiv:2104.08821, equation 4.
    """
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    similar = unit[0::2] @ unit[1::2].T / temperature
    return torch.nn.functional.cross_entropy(similar, torch.arange(len(similar), device=similar.device))


@dataclass(frozen=True)
class Embedding:
    """The objective. objective, pooling: of OBJECTIVES and EMBEDDING_POOLINGS. scale, temperature: of the losses."""

    objective: str
    pooling: str = "mean"
    scale: float = 20.0
    temperature: float = 0.05

    def __post_init__(self) -> None:
        faults = [
            f"`{name}`: expected more than 0; found {getattr(self, name)}"
            for name in ("scale", "temperature")
            if not getattr(self, name) > 0
        ]
        for name, known in (("objective", OBJECTIVES), ("pooling", EMBEDDING_POOLINGS)):
            if getattr(self, name) not in known:
                faults.append(f"`{name}`: expected one of {', '.join(known)}; found {getattr(self, name)!r}")
        if faults:
            raise InputError("options", faults)


@dataclass(frozen=True)
class Pairs:
    """Scored pairs of texts, read from a file."""

    texts: list[tuple[str, str]]
    scores: list[float]


@dataclass(frozen=True)
class Columns:
    """Names of fields or columns in .csv, .jsonl and .parquet files. Plain text in these formats is `first`."""

    first: str = "sentence1"
    second: str = "sentence2"
    score: str = "label"


def read_pairs(path: Path, columns: Columns) -> Pairs:
    """Read scored pairs. Raises InputError, naming each line, for rows that cannot be used, and for an empty file."""
    source = Source.of(str(path), None, columns.first, columns.second, others=(columns.score,))
    texts, scores, faults = [], [], []
    with source.open() as rows:
        for row in rows:
            if row.text is None:
                faults.append(f"line {row.number}: {row.fault}")
                continue
            score = _number(row.others[columns.score])
            if score is None:
                found = show(row.others[columns.score])
                faults.append(f"line {row.number}: {columns.score}: expected a number; found {found}")
            else:
                texts.append((str(row.text[0]), str(row.text[1])))
                scores.append(score)
    if not faults and len(set(scores)) < 2:
        faults.append(f"expected pairs with different scores; found {len(scores)} of one")
    if faults:
        raise InputError(path, faults[:_MOST_FAULTS])
    return Pairs(texts, scores)


def read_texts(path: Path, column: str) -> list[str]:
    """Read texts, one per line or row, without empty ones. Raises InputError for rows that cannot be used."""
    with Source.of(str(path), None, column, None).open() as rows:
        records = list(rows)
    faults = [f"line {record.number}: {record.fault}" for record in records if record.fault]
    texts = [text for record in records if (text := plain_text(record)).strip()]
    if not faults and len(set(texts)) < 2:
        faults.append("expected two or more different texts")
    if faults:
        raise InputError(path, faults[:_MOST_FAULTS])
    return texts


class SentenceEncoder(torch.nn.Module):
    """An encoder that gives one vector for each text, and the loss of an objective over a batch of them."""

    def __init__(self, encoder: Any, embedding: Embedding) -> None:
        super().__init__()
        self.encoder = encoder
        self._embedding = embedding

    def vectors(self, **inputs: torch.Tensor) -> torch.Tensor:
        """[B, H] of the three inputs [B, T]."""
        states = self.encoder(**inputs).last_hidden_state
        if self._embedding.pooling == "cls":
            return states[:, 0]
        mask = inputs["attention_mask"][:, :, None].to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)

    def forward(self, scores: torch.Tensor | None = None, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss over rows that belong together two by two. scores: [B / 2], for CoSENT."""
        vectors = self.vectors(**inputs).float()
        if scores is None:
            return {"loss": simcse_loss(vectors, self._embedding.temperature)}
        return {"loss": cosent_loss(vectors, scores, self._embedding.scale)}


@dataclass(frozen=True)
class EmbeddingResult:
    """The result of a run. before, scores: of the base and of the written model, on the evaluation file."""

    before: dict[str, float]
    scores: dict[str, float]
    history: Any
    examples: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kept = {name: getattr(self, name) for name in ("before", "scores", "examples", "seconds")}
        steps = {"steps": self.history.steps, "best_step": self.history.best_step}
        return kept | steps | {"resumed_at": self.history.resumed_at}


def train_embedding(
    base: Path,
    train: Path,
    evaluation: Path | None,
    out: Path,
    settings: Settings,
    embedding: Embedding,
    columns: Columns,
    freeze_layers: int = 0,
    max_length: int | None = None,
) -> EmbeddingResult:
    """Train the encoder of the checkpoint `base`, whatever its head, and write the checkpoint `out`, without a head.

    train: scored pairs for CoSENT, texts for SimCSE. evaluation: scored pairs; the weights with the best Spearman
    correlation are kept. freeze_layers: leave the embeddings and the bottom `freeze_layers` layers unchanged.
    An interrupted run leaves `OUT.partial`. The same call resumes it.
    Raises InputError, listing every fault, for data, settings or a checkpoint that cannot be used.
    """
    began = monotonic()
    with new_folder(out, replaces=(RECORD,)) as folder, Checkpoint.open(base) as checkpoint:
        _check_dropout(checkpoint, embedding)
        tokenizer = open_tokenizer(checkpoint, max_length)
        held_out = read_pairs(evaluation, columns) if evaluation else None
        dataset = _read_dataset(train, embedding.objective, columns, tokenizer)
        identity = {
            "checkpoint": checkpoint.digest(),
            "task": "embed",
            "train": sha256_of_file(train),
            "eval": sha256_of_file(evaluation) if evaluation else None,
            "columns": asdict(columns),
            "max_length": tokenizer.max_length,
            "embedding": asdict(embedding),
            "method": Full(freeze_layers).as_dict(),
            "settings": settings.as_dict(),
        }

        def measure(model: Any) -> dict[str, float]:
            return score(held_out, lambda texts: _embed(model, tokenizer, texts)) if held_out else {}

        with work_folder(out, identity) as work:
            loop.seed_everything(settings)
            model = SentenceEncoder(_build_encoder(checkpoint, freeze_layers), embedding)
            before = measure(model.eval())
            lengths = [max(len(one.ids), len(other.ids)) for one, other, _ in dataset]
            history = loop.train(
                model,
                dataset,
                LengthGroupedBatches(lengths, settings.batch_size, settings.seed),
                _Collate(tokenizer.pad_id),
                settings,
                work,
                loop.Goal(measure, "spearman") if held_out else None,
            )
            scores = measure(model.eval())
            transformers_models.write_checkpoint(folder, model.encoder, checkpoint, {})
            outcome = EmbeddingResult(before, scores, history, len(dataset), monotonic() - began)
            told = {"before": before, "scores": scores, "examples": len(dataset), "seconds": outcome.seconds}
            write_record(folder, identity, history, ("spearman", "mrr"), **told)
    return outcome


def _read_dataset(
    path: Path, objective: str, columns: Columns, tokenizer: Tokenizer
) -> list[tuple[Row, Row, float | None]]:
    """Scored pairs for CoSENT; each text with itself for SimCSE."""
    if objective == "cosent":
        pairs = read_pairs(path, columns)
        rows = _tokenize(tokenizer, [text for pair in pairs.texts for text in pair])
        return list(zip(rows[0::2], rows[1::2], pairs.scores, strict=True))
    return [(row, row, None) for row in _tokenize(tokenizer, read_texts(path, columns.first))]


def score(pairs: Pairs, embed: Callable[[Sequence[str]], NDArray]) -> dict[str, float]:
    """`spearman` of cosines with the pairs' scores, and retrieval (see `find_matches`).

    embed: texts to vectors [N, H]; `yizhi.Embedder` is one.
    """
    texts = list(dict.fromkeys(text for pair in pairs.texts for text in pair))
    places = {text: index for index, text in enumerate(texts)}
    vectors = np.asarray(embed(texts))
    first, second = (vectors[[places[pair[side]] for pair in pairs.texts]] for side in (0, 1))
    queries, candidates, matches = find_matches(pairs.texts, pairs.scores)
    asked, known = (vectors[[places[text] for text in side]] for side in (queries, candidates))
    return {
        "spearman": rank_correlation(cosines(first, second), np.array(pairs.scores)),
        **retrieval(asked, known, matches),
    }


@dataclass(frozen=True)
class _Collate:
    pad_id: int

    def __call__(self, items: Sequence[tuple[Row, Row, float | None]]) -> dict[str, torch.Tensor]:
        """A pair's two rows side by side."""
        inputs = pad([row for one, other, _ in items for row in (one, other)], self.pad_id).as_dict()
        batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
        scores = [score for _, _, score in items]
        return batch if scores[0] is None else {**batch, "scores": torch.tensor(scores)}


def _embed(model: SentenceEncoder, tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.float32]:
    rows = _tokenize(tokenizer, texts)
    device = next(model.parameters()).device
    vectors: list[NDArray] = [np.empty(0)] * len(rows)
    with torch.inference_mode():
        for batch in make_batches([len(row.ids) for row in rows], _EVALUATION_TOKENS):
            inputs = pad([rows[index] for index in batch], tokenizer.pad_id).as_dict()
            found = model.vectors(**{name: torch.from_numpy(array).to(device) for name, array in inputs.items()})
            for index, vector in zip(batch, found.float().cpu().numpy(), strict=True):
                vectors[index] = vector
    return np.stack(vectors)


def _tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Row]:
    """Tokenize. Texts that are too long are cut."""
    return [tokenizer.fit(row, "truncate")[0] for row in tokenizer.tokenize(texts)]


def _build_encoder(checkpoint: Checkpoint, freeze_layers: int) -> Any:
    """transformers' encoder without a head, and without a pooler, which the vectors do not use."""
    model, new = transformers_models.build_model(checkpoint, "ForTokenClassification", {"id2label": {"0": "", "1": ""}})
    return Full(freeze_layers).prepare(model, checkpoint, new).base_model


def _check_dropout(checkpoint: Checkpoint, embedding: Embedding) -> None:
    if embedding.objective == "simcse" and not checkpoint.config.raw.get("hidden_dropout_prob", 0.1):
        raise InputError(
            checkpoint.folder / "config.json",
            "hidden_dropout_prob: expected more than 0 for SimCSE, because a text's two vectors differ only by dropout",
        )


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and not isinstance(value, bool) else None
