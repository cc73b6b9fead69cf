"""The parity inputs. Each case names the mistake that it would catch.

Token ids come from a counter-based generator. So the same case is the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from yizhi.model.config import EncoderConfig
from yizhi.model.image_config import ImageConfig
from yizhi.model.spec import LOGITS_AT, STEP
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentences import everyday_rows
from yizhi.reading.tokenizer_files import NO_TOKEN, TextTokenizer
from yizhi.runtimes.base import Inputs
from yizhi.runtimes.tasks import FEATURES, FILL_MASK, GENERATION

# What a case holds. What users see is judged on sentences; other ids are what nobody sends, and make mistakes show.
IDS, SENTENCES, MASKED = "ids", "sentences", "masked sentences"
# What an output has one vector for: a chosen position, a token, a row of the batch; a region, a row that has an image,
# and a row that has a text and an image.
POSITION, TOKEN, ROW, REGION, IMAGE, PAIR = "position", "token", "row", "region", "image", "pair"
_SENTENCE_ROWS = 20
# In a sentence, one token of so many is masked: about the share that encoders are trained with.
_MASK_EVERY = 7
# What a causal language model also reads in pieces: one row; rows padded on either side; padding among those before.
_IN_STEPS = ("length-17", "padding-right", "padding-left", "padding-interior")
# Tokens of a long row.
_MANY = 512

# Vocabulary logits are compared at every real token of a short case, and at this many of a long one:
# the head works on each position alone, so more positions would say the same again.
LOGIT_POSITIONS = 32
# A short case has at most so many tokens, padding included.
SHORT_TOKENS = 128


@dataclass(frozen=True)
class Case:
    """A named batch.

    kind: IDS of any kind, SENTENCES, or the same MASKED in places.
    alone: rows that must give the same outputs when run alone, unpadded.
    signatures: the signatures to run. Every short case runs through the usual one and the one with every layer. The
    others compute a part of the same, and run in a few cases.
    """

    name: str
    catches: str
    inputs: Inputs
    alone: tuple[int, ...] = ()
    signatures: tuple[str, ...] = ("serving_default", "hidden_states")
    kind: str = IDS

    @property
    def is_short(self) -> bool:
        """Whether a pass takes only moments. Short cases run first, because they show plain mistakes."""
        return self.inputs.input_ids.size <= SHORT_TOKENS

    def row_alone(self, row: int) -> Inputs:
        """One row, [1, T], without the padding at its right."""
        return self.inputs.rows(slice(row, row + 1), int(self.inputs.attention_mask[row].sum()))

    def meaningful(self, per: str) -> NDArray[np.bool_]:
        """Where an output with a vector for each of these means something: real tokens [B, T], rows that have any [B].

        Of regions [B, R], those of rows with an image; a row [B] that matches both has both.
        """
        tokens, mask = self.inputs.attention_mask == 1, self.inputs.image_mask
        regions = np.zeros((len(tokens), 1), bool) if mask is None else mask == 1
        found = {
            TOKEN: tokens,
            ROW: tokens.any(axis=1),
            REGION: regions,
            IMAGE: regions.any(axis=1),
            PAIR: tokens.any(axis=1) & regions.any(axis=1),
        }
        return found[per]

    @property
    def logit_positions(self) -> NDArray[np.int64]:
        """[N, 2] (row, position) pairs where vocabulary logits are compared: the masked tokens, else real tokens."""
        if self.kind == MASKED:
            return _masked_places(self.inputs.attention_mask)
        real = np.argwhere(self.inputs.attention_mask == 1)
        if len(real) <= 4 * LOGIT_POSITIONS:
            return real
        return real[np.linspace(0, len(real) - 1, LOGIT_POSITIONS).round().astype(int)]


class _CaseMaker:
    def __init__(self, text: TextTokenizer, config: EncoderConfig) -> None:
        self.frame, self.mask = text.frame, text.mask_id
        self.pad = config.pad_token_id
        self.vocab_size = len(text.vocab)
        self._random = np.random.Philox(key=20_211)

    def sentence(self, length: int) -> list[int]:
        """[CLS] … [SEP], or the tokenizer's own frame, of `length` ids in all; of one, the first."""
        words = [int(raw) for raw in self._random.random_raw(length) % self.vocab_size]
        inner = words[: max(length - self.frame.begin - self.frame.end, 1 - self.frame.begin)]
        return self.frame.around(inner)[:length]

    def long(self, name: str, catches: str, length: int, signature: str) -> Case:
        """One long row, through this signature only."""
        return replace(self.batch(name, catches, [self.sentence(length)]), signatures=(signature,))

    def batch(
        self, name: str, catches: str, rows: Sequence[list[int]], side: str = "right", width: int | None = None
    ) -> Case:
        """Rows of different lengths, padded on one side, to the longest or to a width."""
        width = width or max(len(row) for row in rows)
        ids = np.full((len(rows), width), self.pad)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[index, where], mask[index, where] = row, 1
        alone = tuple(index for index, row in enumerate(rows) if row) if side == "right" and len(rows) > 1 else ()
        return Case(name, catches, Inputs.of(ids, mask), alone)

    def with_images(
        self, name: str, catches: str, rows: Sequence[list[int]], regions: Sequence[int], image: ImageConfig
    ) -> Case:
        """`batch`, with an image of so many regions beside each row. Region 0 is the whole image."""
        case = self.batch(name, catches, rows)
        mask = (np.arange(max(regions)) < np.array(regions)[:, None]).astype(np.int64)  # [B, R]
        features = self._fractions(*mask.shape, image.features) * 2 - 1
        first, second = self._fractions(*mask.shape, 2), self._fractions(*mask.shape, 2)
        corners = np.minimum(first, second), np.maximum(first, second)
        corners[0][:, 0], corners[1][:, 0] = 0, 1
        boxes = np.concatenate([*corners, np.prod(corners[1] - corners[0], axis=-1, keepdims=True)], axis=-1)
        given = {"image_features": features, "image_boxes": boxes, "image_mask": mask}
        return replace(case, inputs=Inputs.of(**case.inputs.as_dict(), **given))

    def _fractions(self, *shape: int) -> NDArray[np.float64]:
        """Numbers from 0 up to 1, exact in float32."""
        return (self._random.random_raw(int(np.prod(shape))) >> np.uint64(41)).reshape(shape) / 2.0**23


def make_cases(checkpoint: Checkpoint) -> list[Case]:
    """The cases that fit this checkpoint's vocabulary, positions and token types."""
    return cases_of(checkpoint.text, checkpoint.config, checkpoint.spec.task)


def find_wrong_cases(found: Sequence[Case], text: TextTokenizer, config: EncoderConfig, task: str) -> list[str]:
    """Cases that a golden folder lacks, or that differ from this version's, for this tokenizer and configuration.

    A golden folder gives the outputs. It must not decide the inputs: fewer cases would show fewer faults.
    """
    known = {case.name: case for case in found}
    faults = []
    for case in cases_of(text, config, task):
        other = known.get(case.name)
        if other is None:
            faults.append(f"golden: {case.name}: the case is missing")
        elif not _is_same(case, other):
            faults.append(f"golden: {case.name}: is not the case that this version of Yizhi makes")
    return faults


def _is_same(one: Case, other: Case) -> bool:
    arrays, others = one.inputs.as_dict(), other.inputs.as_dict()
    same = arrays.keys() == others.keys() and all(np.array_equal(arrays[name], others[name]) for name in arrays)
    return same and (one.alone, set(one.signatures), one.kind) == (other.alone, set(other.signatures), other.kind)


def cases_of(text: TextTokenizer, config: EncoderConfig, task: str) -> list[Case]:
    """The cases for a tokenizer, a configuration and a task. They do not depend on the weights."""
    make = _CaseMaker(text, config)
    longest = config.longest
    masked = [make.sentence(24) for _ in range(3)]
    masked[0][1] = masked[1][-2] = make.mask
    masked[2][2:-1:3] = [make.mask] * len(masked[2][2:-1:3])
    repeated = make.frame.around([make.sentence(8)[3]] * 14)

    cases = [
        make.batch("length-1", "attention over a single token; axes of size one dropped", [make.sentence(1)]),
        make.batch("length-2", "nothing but special tokens", [make.sentence(2)]),
        make.batch("length-17", "a kernel that only handles multiples of its vector width", [make.sentence(17)]),
        *([] if make.mask == NO_TOKEN else [make.batch("masks", "[MASK] first, last and many", masked)]),
        make.batch("repeated-token", "positions dropped, or off by one", [repeated]),
        _segments(make, config.type_vocab_size),
        make.batch(
            "padding-right",
            "padding that leaks into real tokens; NaN from a row of nothing but padding",
            [make.sentence(24), make.sentence(9), []],
        ),
        make.batch("padding-left", "a mask applied from the wrong end", [make.sentence(5), make.sentence(20)], "left"),
        _interior_padding(make),
        make.batch(
            "batch-of-8",
            "rows of a batch mixed up, or dependent on their neighbours",
            [make.sentence(length) for length in (3, 15, 8, 11, 16, 2, 12, 5)],
        ),
        *_padding_ids(make, config),
        make.long("length-128", "an error that grows with length", min(128, longest), "features"),
        *_long_rows(make, longest),
        *(_images(make, config.image) if config.image else ()),
    ]
    also: dict[str, tuple[str, ...]]
    also = {"masks": (LOGITS_AT,), "segments": ("features",), "padding-right": ("features", LOGITS_AT)}
    also["regions-padded"] = also["padding-right"]
    if task == GENERATION:
        also |= {name: (*also.get(name, ()), STEP) for name in _IN_STEPS}
    return [
        replace(case, signatures=(*case.signatures, *also.get(case.name, ())))
        for case in [*cases, *_sentences(make, text, longest, task)]
        if case.inputs.input_ids.shape[1] <= longest
    ]


def _long_rows(make: _CaseMaker, longest: int) -> list[Case]:
    """Every position; where there are more than 512, twice as many or all of them: work grows with the square."""
    if longest <= _MANY:
        return [
            make.long("longest-but-one", "positions off by one at the far end", longest - 1, "hidden_states"),
            make.long("longest", "the last position missing", longest, "serving_default"),
        ]
    catches, far = "positions beyond BERT's 512: a table cut short, angles rounded", min(2 * _MANY, longest)
    return [
        make.long("length-511", "an error that grows with length, in any layer", _MANY - 1, "hidden_states"),
        make.long(f"length-{far}", catches, far, "features"),
    ]


def _sentences(make: _CaseMaker, text: TextTokenizer, longest: int, task: str) -> list[Case]:
    """Everyday sentences in batches of one shape. If the model fills masks, the same batches again with masks."""
    rows = everyday_rows(text, longest)
    fills_masks = task == FILL_MASK
    width = max((len(row) for row in rows), default=0)
    cases = []
    for number, start in enumerate(range(0, len(rows), _SENTENCE_ROWS)):
        batch = rows[start : start + _SENTENCE_ROWS]
        case = make.batch(f"sentences-{number}", "quality lost on what users send", batch, width=width)
        signature = "features" if fills_masks or task == FEATURES else "serving_default"
        cases.append(replace(case, alone=(), signatures=(signature,), kind=SENTENCES))
        if fills_masks:
            ids = case.inputs.input_ids.copy()
            ids[tuple(_masked_places(case.inputs.attention_mask).T)] = make.mask
            inputs = Inputs.of(ids, case.inputs.attention_mask)
            name, catches = f"masked-sentences-{number}", "quality lost where masks are filled"
            cases.append(Case(name, catches, inputs, (), ("serving_default",), MASKED))
    return cases


def _masked_places(attention_mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every seventh token between the first and the last of a row, from another one on in each: [N, 2]."""
    places = [
        (row, position)
        for row, length in enumerate(attention_mask.sum(axis=1))
        for position in range(1 + row % _MASK_EVERY, int(length) - 1, _MASK_EVERY)
    ]
    return np.array(places, np.int64).reshape(-1, 2)


def _segments(make: _CaseMaker, type_vocab_size: int) -> Case:
    inputs = make.batch("", "", [make.sentence(24), make.sentence(13)]).inputs
    types = np.zeros_like(inputs.input_ids)
    types[0, 10:], types[1, 6:] = type_vocab_size - 1, type_vocab_size - 1
    types *= inputs.attention_mask
    return Case("segments", "token types missing or swapped", Inputs.of(inputs.input_ids, inputs.attention_mask, types))


def _images(make: _CaseMaker, image: ImageConfig) -> list[Case]:
    """Texts beside images. Every other case of such a model is text alone."""
    return [
        make.with_images("region-1", "attention over a single region", [make.sentence(9)], [1], image),
        make.with_images(
            "regions-36",
            "boxes dropped; the image's heads counted as the text's; regions beyond the tokens lost",
            [make.sentence(12)],
            [36],
            image,
        ),
        make.with_images(
            "regions-padded",
            "the masks of tokens and regions swapped; padded regions that leak into real ones or into tokens",
            [make.sentence(20), make.sentence(7), make.sentence(11)],
            [3, 7, 5],
            image,
        ),
        make.with_images(
            "some-images",
            "rows of text alone beside rows with an image: an empty image that changes its text; NaN of an empty row",
            [make.sentence(8), make.sentence(14), []],
            [4, 0, 6],
            image,
        ),
    ]


def _padding_ids(make: _CaseMaker, config: EncoderConfig) -> list[Case]:
    """A text that holds padding's id, where positions are counted past it."""
    if config.padding_idx is None:
        return []
    inputs = make.batch("", "", [make.sentence(20), make.sentence(20)]).inputs
    ids = inputs.input_ids.copy()
    ids[0, 4:7] = ids[1, 2::5] = config.padding_idx
    catches = "positions counted from the mask, or without regard to padding"
    return [Case("padding-id-in-text", catches, Inputs.of(ids, inputs.attention_mask))]


def _interior_padding(make: _CaseMaker) -> Case:
    inputs = make.batch("", "", [make.sentence(20), make.sentence(20)]).inputs
    mask = inputs.attention_mask.copy()
    mask[0, 5:9] = mask[1, 1::4] = 0
    return Case("padding-interior", "a mask reduced to a length", Inputs.of(inputs.input_ids, mask))
