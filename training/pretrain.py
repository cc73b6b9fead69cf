"""Continued pretraining: from a checkpoint and plain text to the same checkpoint, its masked-LM head trained on."""

import json
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from yizhi.errors import InputError
from yizhi.model.architectures import CLASS_SUFFIXES, FAMILIES
from yizhi.model.spec import parameters_of
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.batching import make_batches
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.digests import sha256_of_file
from yizhi.storage.folders import new_folder
from yizhi.storage.json_files import read_json_object, to_json
from yizhi.training.choices import MASKING, PAIRS
from yizhi.training.corpus import Corpus, pack, read_corpus
from yizhi.training.masking import IGNORED, SCHEMES, Ids, Lexicon, Masker, Statistics, mark_words
from yizhi.training.segmentation import open_segmenter
from yizhi.training.sequences import EpochBatches, Sequences
from yizhi.training.settings import Settings
from yizhi.training.similar_words import build_lexicon, find_neighbours, read_similar_words, read_vectors
from yizhi.training.work import RECORD

# By model_type: what a head for pairs of segments is called, in files and in `forward`. ELECTRA has none.
_PAIR_HEADS = {
    "bert": ("cls.seq_relationship", "next_sentence_label"),
    "megatron-bert": ("cls.seq_relationship", "next_sentence_label"),
    "albert": ("sop_classifier", "sentence_order_label"),
}
_DEFAULT_LENGTH = 128
_EVALUATION_TOKENS = 4096
_TRAINING, _EVALUATION = 0, 1


@dataclass(frozen=True)
class Objective:
    """The text, and what the model learns from it.

    text, evaluation: files. masking: one of MASKING. segmenter: see `open_segmenter`. similar_words, word_vectors: the
    source of similar words for `macbert`; vectors: how many words of the latter to read. pairs: one of PAIRS.
    line_by_line: a sequence for each line. max_length: tokens of a sequence. None: 128, or the model's limit if that is
    less.
    """

    text: tuple[Path, ...]
    evaluation: tuple[Path, ...] = ()
    masking: str = "wwm"
    segmenter: str = "jieba"
    similar_words: Path | None = None
    word_vectors: Path | None = None
    vectors: int | None = None
    pairs: str | None = None
    line_by_line: bool = False
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Raise InputError, listing every fault, for settings that contradict each other."""
        faults = []
        if self.masking not in MASKING:
            faults.append(f"`masking`: expected one of {', '.join(MASKING)}; found {self.masking!r}")
        if self.pairs not in (None, *PAIRS):
            faults.append(f"`pairs`: expected one of {', '.join(PAIRS)}; found {self.pairs!r}")
        sources = [self.similar_words, self.word_vectors]
        if self.masking == "macbert" and sources.count(None) != 1:
            faults.append("`masking` macbert: expected either `similar_words` or `word_vectors`")
        if self.masking != "macbert" and sources.count(None) != 2:
            faults.append("`similar_words`, `word_vectors`: need `masking` macbert")
        if faults:
            raise InputError("options", faults)

    def identity(self) -> dict[str, Any]:
        """Plain values that identify the objective, with digests of the files."""
        digests: dict[str, Any] = {
            name: [sha256_of_file(path) for path in paths]
            for name, paths in {"text": self.text, "evaluation": self.evaluation}.items()
        }
        for name in ("similar_words", "word_vectors"):
            path = getattr(self, name)
            digests[name] = sha256_of_file(path) if path else None
        rest = ("masking", "segmenter", "vectors", "pairs", "line_by_line", "max_length")
        return digests | {name: getattr(self, name) for name in rest}


@dataclass(frozen=True)
class Prepared:
    """The text, ready to be masked. held_out: the evaluation files, or None."""

    tokenizer: Tokenizer
    corpus: Corpus
    train: Sequences
    held_out: Sequences | None

    @property
    def unknown(self) -> float:
        """The share of tokens that are [UNK]."""
        return float((self.corpus.ids == self.tokenizer.unknown_id).mean())


@dataclass(frozen=True)
class PretrainingResult:
    """The result of a run.

    scores: of the written model on the evaluation files: `loss` (mean cross-entropy of the masked tokens, in nats),
    `accuracy`, and with pairs `pair_accuracy`; empty without evaluation files. new: parameters that started at random.
    """

    scores: dict[str, float]
    statistics: Statistics
    history: Any
    new: tuple[str, ...]
    sequences: int
    tokens: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **{name: getattr(self, name) for name in ("scores", "new", "sequences", "tokens", "seconds")},
            "masked": [{"what": what, "share": share, "paper": paper} for what, share, paper in self.statistics.rows()],
            "steps": self.history.steps,
            "best_step": self.history.best_step,
            "resumed_at": self.history.resumed_at,
        }


def prepare(checkpoint: Checkpoint, objective: Objective, seed: int) -> Prepared:
    """Read, tokenize and segment the text. Raises InputError for text or options that cannot be used."""
    model_type, positions = checkpoint.config.model_type, checkpoint.config.longest
    length = objective.max_length or min(_DEFAULT_LENGTH, positions)
    faults = []
    if not 8 <= length <= positions:
        faults.append(f"`max_length`: expected 8 … {positions}; found {length}")
    if objective.pairs and model_type not in _PAIR_HEADS:
        faults.append(f"`pairs`: {model_type} has no place for a head over pairs; found {objective.pairs}")
    if faults:
        raise InputError("options", faults)
    tokenizer = Tokenizer(checkpoint.text, length)
    # Words are not asked for where tokens are chosen.
    segment = open_segmenter(objective.segmenter if SCHEMES[objective.masking].whole_words else "spaces")
    corpus = read_corpus(objective.text, tokenizer, segment)
    masker = Masker(
        SCHEMES[objective.masking],
        tokenizer.mask_id,
        _random_ids(tokenizer),
        _lexicon(objective, corpus, tokenizer),
    )
    room = length - (3 if objective.pairs else 2)
    target = _PAIR_HEADS[model_type][1] if objective.pairs else ""

    def sequences(text: Corpus, use: int) -> Sequences:
        pieces = pack(text, room, objective.line_by_line)
        return Sequences(text, pieces, tokenizer, masker, (seed, use), objective.pairs, target)

    held_out = read_corpus(objective.evaluation, tokenizer, segment) if objective.evaluation else None
    return Prepared(
        tokenizer,
        corpus,
        sequences(corpus, _TRAINING),
        sequences(held_out, _EVALUATION) if held_out else None,
    )


def show_masking(prepared: Prepared, count: int) -> list[str]:
    """The first sequences of the first epoch, two lines each: words marked with ##, and the model's input."""
    lines = []
    vocab = prepared.tokenizer.vocab
    for index in range(min(count, len(prepared.train))):
        row, words, _, _ = prepared.train.draw((0, index))
        shown = prepared.train[0, index].row.ids
        lines.append(" ".join(mark_words([vocab[i] for i in row.ids], words)))
        lines.append(" ".join(vocab[i] for i in shown))
    return lines


def count_masking(prepared: Prepared) -> Statistics:
    """The statistics of one epoch, masked anew."""
    prepared.train.statistics = statistics = Statistics(prepared.train.statistics.scheme)
    for index in range(len(prepared.train)):
        prepared.train[0, index]
    return statistics


def is_done(base: Path, objective: Objective, out: Path, settings: Settings) -> bool:
    """Whether `out` already is the result of `pretrain` for the same checkpoint, text and settings."""
    if not (out / RECORD).is_file():
        return False
    with Checkpoint.open(base) as checkpoint:
        identity = _identify(checkpoint, objective, settings)
    return read_json_object(out / RECORD).get("run") == json.loads(to_json(identity))


def pretrain(
    base: Path, objective: Objective, out: Path, settings: Settings, new_head: bool = False
) -> PretrainingResult:
    """Train the checkpoint `base` on, and write the checkpoint `out`.

    An interrupted run leaves `OUT.partial`. The same call resumes it. new_head: start a masked-LM head at random if
    `base` has none. An untrained pooler is copied unchanged. A head over pairs stays in `model.safetensors`, where BERT
    and ALBERT publish it. No artifact has it.
    Raises InputError, listing every fault, for text, settings or a checkpoint that cannot be used.
    """
    from yizhi.training import loop, transformers_models
    from yizhi.training.batches import collate
    from yizhi.training.work import work_folder, write_record

    began = monotonic()
    with new_folder(out, replaces=(RECORD,)) as folder, Checkpoint.open(base) as checkpoint:
        _check_head(checkpoint, new_head)
        prepared = prepare(checkpoint, objective, settings.seed)
        identity = _identify(checkpoint, objective, settings)
        config = {"architectures": [FAMILIES[checkpoint.config.model_type].class_name + CLASS_SUFFIXES["fill-mask"]]}
        with work_folder(out, identity) as work:
            loop.seed_everything(settings)
            suffix = "ForPreTraining" if objective.pairs else "ForMaskedLM"
            model, new = transformers_models.build_model(checkpoint, suffix, {})
            new = _load_pair_head(model, checkpoint, new)
            pad_id = prepared.tokenizer.pad_id

            def measure(model: Any) -> dict[str, float]:
                return score_masked(model, prepared.held_out, pad_id) if prepared.held_out else {}

            history = loop.train(
                model,
                prepared.train,
                EpochBatches(prepared.train.lengths, settings.batch_size, settings.seed),
                lambda features: collate(features, pad_id),
                settings,
                work,
                loop.Goal(measure, "loss", greater=False) if prepared.held_out else None,
            )
            scores = measure(model.eval()) if prepared.held_out else {}
            transformers_models.write_checkpoint(
                folder, model, checkpoint, config, parameters_of(checkpoint.spec.pooler), keep_pooling=True
            )
            outcome = PretrainingResult(
                scores=scores,
                statistics=prepared.train.statistics,
                history=history,
                new=tuple(new),
                sequences=len(prepared.train),
                tokens=len(prepared.corpus.ids),
                seconds=monotonic() - began,
            )
            told = {
                key: value
                for key, value in outcome.as_dict().items()
                if key not in ("steps", "best_step", "resumed_at")
            }
            write_record(folder, identity, history, tuple(name for name in scores if name != "loss"), **told)
    return outcome


def _identify(checkpoint: Checkpoint, objective: Objective, settings: Settings) -> dict[str, Any]:
    return {"checkpoint": checkpoint.digest(), **objective.identity(), "settings": settings.as_dict()}


def _check_head(checkpoint: Checkpoint, new_head: bool) -> None:
    task = checkpoint.spec.task
    if task == "features" and not new_head:
        raise InputError(checkpoint.folder, "has no masked-LM head; `new_head` starts one at random")
    if task not in ("features", "fill-mask"):
        raise InputError(checkpoint.folder, f"expected a masked-LM head; found one for {task}")


def _random_ids(tokenizer: Tokenizer) -> Ids:
    """The ids for random tokens: all but special and unused ones."""
    wanted = np.array([not token.startswith("[unused") and " " not in token for token in tokenizer.vocab])
    wanted[tokenizer.special_ids] = False
    return np.flatnonzero(wanted)


def _lexicon(objective: Objective, corpus: Corpus, tokenizer: Tokenizer) -> Lexicon | None:
    if objective.similar_words:
        similar = read_similar_words(objective.similar_words)
    elif objective.word_vectors:
        words, vectors = read_vectors(objective.word_vectors, objective.vectors)
        similar = find_neighbours(words, vectors, corpus.text_words)
    else:
        return None
    return build_lexicon(tokenizer, corpus.text_words, similar)


def _load_pair_head(model: Any, checkpoint: Checkpoint, new: list[str]) -> list[str]:
    """Load the checkpoint's head over pairs, which no output uses. Return the parameters that are still new."""
    import torch

    prefix = _PAIR_HEADS.get(checkpoint.config.model_type, ("?",))[0]
    state = model.state_dict()
    for name in checkpoint.ignored:
        if name.startswith(f"{prefix}.") and name in state:
            stored = torch.from_numpy(checkpoint.ignored_array(name).astype(np.float32))
            if stored.shape == state[name].shape:
                state[name].copy_(stored)
                new = [other for other in new if other != name]
    return new


def score_masked(model: Any, held_out: Sequences, pad_id: int) -> dict[str, float]:
    """Scores on the evaluation text, with the same masks each time."""
    import torch

    from yizhi.training.batches import collate

    device = next(model.parameters()).device
    losses, hits, in_order = [], [], []
    with torch.inference_mode():
        for batch in make_batches(held_out.lengths, _EVALUATION_TOKENS):
            arguments = collate([held_out[0, index] for index in batch], pad_id)
            labels = arguments.pop("labels")
            order = {name: arguments.pop(name) for name in list(arguments) if name.endswith("_label")}
            output = model(**{name: tensor.to(device) for name, tensor in arguments.items()})
            chosen = labels != IGNORED
            logits = output["prediction_logits" if order else "logits"].float().cpu()[chosen]
            losses += torch.nn.functional.cross_entropy(logits, labels[chosen], reduction="none").tolist()
            hits += (logits.argmax(-1) == labels[chosen]).tolist()
            for expected in order.values():
                found = output["sop_logits" if "sop_logits" in output else "seq_relationship_logits"]
                in_order += (found.argmax(-1).cpu() == expected).tolist()
    scores = {"loss": float(np.mean(losses)), "accuracy": float(np.mean(hits))}
    return scores | ({"pair_accuracy": float(np.mean(in_order))} if in_order else {})
