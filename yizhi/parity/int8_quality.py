"""The cost of int8 on real sentences: against fp32 on masked tokens, and by part of the encoder."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.model.spec import EncoderSpec, Layer, Linear, MaskedLMHead
from yizhi.parity.compare import Quality, cosines, measure_quality
from yizhi.runtimes.base import Inputs, Runtime
from yizhi.runtimes.tokenization import Tokenizer

# Every so many tokens one is masked: about the share that these encoders were trained with.
EVERY = 7
_ROWS = 8
# Longer sentences are left out: they would only repeat what short ones show, at a square's cost.
_LONGEST = 128


@dataclass(frozen=True)
class TextQuality:
    """int8 against fp32 on the masked tokens of some texts, or on every token if the checkpoint fills no masks.

    quality: KL(fp32 ‖ int8) in nats, and agreement; top-1 counts every position, decided or not. None without a head
    that fills masks.
    cosine, cosine_mean: the lowest and the mean cosine of these tokens' vectors, per hidden state.
    """

    texts: int
    tokens: int
    quality: Quality | None
    cosine: dict[str, float]
    cosine_mean: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def masked_batches(
    tokenizer: Tokenizer, texts: Sequence[str], positions: int | None = None, masks: bool = True
) -> Iterator[tuple[Inputs, NDArray[np.int64]]]:
    """Batches of sentences of similar length with every seventh token masked, and where: [N, 2] (row, position).

    Sentences are taken in their order until `positions` tokens are masked; None for all. masks: False masks none, and
    takes every token.
    """
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    masked = 0
    for row in tokenizer.tokenize(list(texts)):
        length = len(row.ids)
        if 3 <= length <= min(_LONGEST, tokenizer.max_length) and (positions is None or masked < positions):
            at = np.arange(1 + len(rows) % min(EVERY, length - 2), length - 1, EVERY) if masks else np.arange(length)
            rows.append((row.ids, at))
            masked += len(at)
    rows.sort(key=lambda row: len(row[0]))
    for start in range(0, len(rows), _ROWS):
        batch = rows[start : start + _ROWS]
        ids = np.full((len(batch), len(batch[-1][0])), tokenizer.pad_id)
        attention = np.zeros_like(ids)
        for index, (own, at) in enumerate(batch):
            ids[index, : len(own)], attention[index, : len(own)] = own, 1
            if masks:
                ids[index, at] = tokenizer.mask_id
        yield Inputs.of(ids, attention), np.argwhere(ids == tokenizer.mask_id if masks else attention == 1)


def compare_on_texts(int8: Runtime, fp32: Runtime, texts: Sequence[str], positions: int | None = None) -> TextQuality:
    """Run both artifacts of one checkpoint on the texts, until `positions` tokens are compared.

    Raises InputError if no text can be used.
    """
    masks = int8.artifact.description["task"] == "fill-mask"
    tokenizer = Tokenizer.open(int8.artifact.folder)
    names = list(int8.signatures["hidden_states"])
    layers = [name for name in names if name.startswith("hidden_states.")]
    pairs: dict[str, list[tuple[NDArray, NDArray]]] = {name: [] for name in [*(["logits"] if masks else []), *layers]}
    used = compared = 0
    for inputs, at in masked_batches(tokenizer, texts, positions, masks):
        found, expected = (runtime.run(inputs, names) for runtime in (int8, fp32))
        for name, kept in pairs.items():
            kept.append((found[name][tuple(at.T)], expected[name][tuple(at.T)]))
        used, compared = used + len(inputs.input_ids), compared + len(at)
    if not compared:
        raise InputError("`texts`", f"no text of 1 … {_LONGEST - 2} tokens")
    joined = {name: [np.concatenate(arrays) for arrays in zip(*kept, strict=True)] for name, kept in pairs.items()}
    of_logits = joined.get("logits")
    found_cosines = {name: cosines(*joined[name]) for name in layers}
    return TextQuality(
        texts=used,
        tokens=compared,
        quality=measure_quality(of_logits[0], of_logits[1], lead=0.0) if of_logits else None,
        cosine={name: float(values.min()) for name, values in found_cosines.items()},
        cosine_mean={name: float(values.mean()) for name, values in found_cosines.items()},
    )


def error_of(found: TextQuality) -> float:
    """The error that judges a part: mean KL, or without a head 1 − the mean cosine of the last hidden state."""
    if found.quality:
        return found.quality.kl_mean
    return 1 - list(found.cosine_mean.values())[-1]


def parts_of(spec: EncoderSpec) -> dict[str, list[str]]:
    """Parts that can stay in fp32, by name: each layer with its kernels, the word embeddings, the head's transform."""
    parts: dict[str, list[str]] = {spec.word_embeddings.name: []}
    for layer in dict.fromkeys((*spec.layers, *(spec.of_image.layers if spec.image else ()))):
        kernels = _kernels(layer)
        parts[_common_beginning(kernels)] = kernels
    if isinstance(spec.head, MaskedLMHead) and spec.head.dense:
        parts[spec.head.dense.name] = []
    return parts


def find_costs(measure: Callable[[str], float], parts: dict[str, list[str]]) -> dict[str, float]:
    """The remaining error with each part kept in fp32, lowest first; then with the kernels of the best layer.

    measure: the error with this part kept.
    """
    costs = {name: measure(name) for name in parts}
    worst = min((name for name in parts if parts[name]), key=costs.__getitem__)
    costs |= {kernel: measure(kernel) for kernel in parts[worst]}
    return dict(sorted(costs.items(), key=lambda item: item[1]))


def _kernels(layer: Layer) -> list[str]:
    return [part.name for part in vars(layer).values() if isinstance(part, Linear)]


def _common_beginning(names: list[str]) -> str:
    columns = zip(*(name.split(".") for name in names), strict=False)
    same = [len(set(column)) == 1 for column in columns]
    return ".".join(names[0].split(".")[: same.index(False)])
