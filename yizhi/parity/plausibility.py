"""Whether a masked-language-model head knows Chinese. Parity also holds for random heads.

One artifact fills the sentences of `cloze.py`, and right answers among the first five are counted. Chance separates a
trained head from an untrained one: see `needed`.
Measured on the 30 sentences, through ONNX in float32: a small BERT trained on 2.5 M tokens (masked-token loss 4.63) has
16 hits and a mean log-probability of −3.7. The same encoder under three random heads, which is how
RoBERTa-wwm-ext-large was published, has 0 hits and −10.8 to −11.0. Wholly random weights have 0 hits and −9.8 to −10.2.
Chance for 21,128 tokens is 0.007 hits and −9.96.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.parity.cloze import CLOZE
from yizhi.parity.compare import log_softmax
from yizhi.parity.record import Plausibility
from yizhi.parity.workers import compute_in_order
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.tokenization import Tokenizer

TRAINED, UNTRAINED, ABSENT, NOT_JUDGED = "trained", "untrained", "absent", "not judged"
FIRST = 5
# How often an untrained head may pass for a trained one.
FALSE_ALARM = 1e-6
# Sentences that a vocabulary must have the characters of. With fewer, even a good head may not reach `needed`.
FEWEST = 10


def score_head(runtime: Runtime, cloze: Sequence[tuple[str, str]] = CLOZE, workers: int = 1) -> Plausibility:
    """Run the sentences through an opened artifact, `workers` at once.

    Each sentence is (text with one [MASK], the characters that fit).
    """
    task = runtime.artifact.description["task"]
    if task != "fill-mask":
        return Plausibility(ABSENT, task=task)
    tokenizer = Tokenizer.open(runtime.artifact.folder)
    ids = {token: index for index, token in enumerate(tokenizer.vocab)}
    known = [(text, answers) for text, answers in cloze if _is_known(text, answers, ids, tokenizer.max_length)]
    size = len(tokenizer.vocab)
    judge = partial(Plausibility, scored=len(known), skipped=len(cloze) - len(known), chance=-math.log(size))
    if len(known) < FEWEST:
        return judge(NOT_JUDGED)

    def run(sentence: tuple[str, str]) -> NDArray[np.float32]:
        text, _ = sentence
        inputs = tokenizer.encode([tokenizer.put_mask(text)]).inputs
        masks = np.argwhere(inputs.input_ids == tokenizer.mask_id)
        if len(masks) != 1:
            raise InputError(text, f"expected one [MASK]; found {len(masks)}")
        return runtime.logits_at(inputs, masks)[0]  # [V]

    hits, scores = 0, []
    for (_, answers), logits in compute_in_order(run, known, workers):
        right = [ids[answer] for answer in answers if answer in ids]
        log_p = log_softmax(logits)
        scores.append(np.logaddexp.reduce(log_p[right]))
        hits += bool(set(np.argsort(-log_p, kind="stable")[:FIRST].tolist()) & set(right))
    most = needed(len(known), FIRST * max(len(answers) for _, answers in known) / size)
    verdict = TRAINED if hits >= most else UNTRAINED
    return judge(verdict, hits, most, float(np.mean(scores)))


def needed(sentences: int, chance: float) -> int:
    """The fewest hits that guessing reaches less than once in a million heads, by the binomial distribution.

    chance: of one hit. For 30 sentences, two right answers at most and 21,128 tokens the result is 3.
    """
    chance = min(chance, 1.0)
    at_least = 0.0
    for hits in range(sentences, 0, -1):
        at_least += math.comb(sentences, hits) * chance**hits * (1 - chance) ** (sentences - hits)
        if at_least > FALSE_ALARM:
            return hits + 1
    return 1


def _is_known(text: str, answers: str, ids: dict[str, int], longest: int) -> bool:
    characters = text.replace("[MASK]", "")
    fits = len(characters) + 3 <= longest
    return fits and answers[0] in ids and all(character in ids for character in characters)
