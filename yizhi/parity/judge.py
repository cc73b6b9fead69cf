"""Runs every case through one opened artifact, and judges the outputs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.model.spec import (
    IMAGE_PREFIX,
    LOGITS_AT,
    MATCH_LOGITS,
    SENTENCE_EMBEDDING,
    STEP,
    TERM_WEIGHTS,
    TOKEN_WEIGHTS,
    ZERO_AT_PADDING,
)
from yizhi.parity.answers import check_answers
from yizhi.parity.cases import IMAGE, MASKED, PAIR, POSITION, REGION, ROW, SENTENCES, TOKEN, Case
from yizhi.parity.compare import Difference, Quality, compare, cosines, measure_quality, relative_error
from yizhi.parity.golden import Golden
from yizhi.parity.integers import check_integers
from yizhi.parity.pace import Counter, Tell, tell_nobody
from yizhi.parity.sentence_quality import Sentences, join, judge_sentences
from yizhi.parity.texts import check_texts
from yizhi.parity.tolerances import FloatTolerance, QuantizedGates
from yizhi.parity.verdict import Verdict
from yizhi.parity.weights import audit
from yizhi.parity.workers import compute_in_order
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.base import Inputs, Outputs, Runtime
from yizhi.runtimes.tasks import FILL_MASK, GENERATION

# Quantized outputs are compared like any other, so that shapes, NaN and errors are known; it is the
# gates that judge them.
_NOT_JUDGED = FloatTolerance(float("inf"), 0.0, "")
# Where no tolerance is known, `Difference.excess` is the smallest t with |error| ≤ t + t · scale.
_UNIT = FloatTolerance(1.0, 1.0, "")

# What outputs of an image stream have one vector for.
_OF_IMAGES = (REGION, IMAGE, PAIR)

# While one long case runs, the other workers open the next signature and run its short cases.
_AHEAD = 16

_TOO_COARSE = (
    "its integers and its numbers are right: 8 bits are too few for this model, or its arithmetic is wrong; "
    "`yizhi int8-report` with the checkpoint names the parts that cost most, for `keep_fp32` of `yizhi export`"
)


def verify(
    runtime: Runtime,
    golden: Golden,
    precision: str,
    checkpoint: Checkpoint | None = None,
    workers: int = 1,
    tell: Tell = tell_nobody,
) -> Verdict:
    """Run all cases through every signature of the artifact, and judge them by `precision`. Compare its stored tensors.

    The short cases come first. If they fail, long cases that have not begun are not run, and a fault says so.

    precision: the artifact's, or the `yizhi.choices.MATH` that it was opened with, if that is not `strict`.
    checkpoint: the artifact's source, if it is at hand: see `yizhi.parity.weights`.
    workers: cases at once. tell: called after each run of a case.
    Raises InputError if the golden outputs are not this artifact's.
    """
    if set(golden.per) != set(runtime.outputs):
        raise InputError(
            runtime.artifact.folder,
            f"outputs: expected {', '.join(golden.per)} (golden); found {', '.join(runtime.outputs)}",
        )
    of_words = runtime.artifact.description["task"] in (FILL_MASK, GENERATION)
    signatures = {**runtime.signatures, **({LOGITS_AT: ("logits",)} if of_words else {})}
    if STEP in runtime.artifact.description:
        signatures[STEP] = ("logits",)
    missing = [
        f"{case.name}: {name}: missing in the golden outputs"
        for case in golden.cases
        for signature in case.signatures
        for name in signatures.get(signature, ())
        if name not in golden.reference[case.name]
    ]
    if missing:
        raise InputError(runtime.artifact.folder, missing)
    verdict = Verdict(precision, runtime.device, settings=runtime.settings())
    verdict.wrong_text = check_texts(runtime.artifact, golden.text)
    verdict.faults += verdict.wrong_text
    if runtime.device != "cpu":
        fallbacks = runtime.find_fallbacks(golden.cases[0].inputs.complete(runtime.config))
        verdict.faults += [f"not computed on {runtime.device}: {line}" for line in fallbacks]
    several = [case for case in golden.cases if case.alone] or golden.cases
    with_image = max(several, key=lambda case: case.inputs.image_mask is not None)  # the first, if none has one
    verdict.faults += runtime.find_disagreements(with_image.inputs.complete(runtime.config))
    if isinstance(verdict.gates, QuantizedGates):
        verdict.integers, wrong = check_integers(runtime)
        verdict.faults += wrong
    compared = audit(runtime.artifact, golden.weights, golden.numbers, checkpoint, workers)
    verdict.weights, verdict.wrong_weights = compared
    verdict.faults += verdict.wrong_weights
    judge = _Judge(golden, verdict)
    counter = Counter(tell, (case for signature in signatures for case in golden.cases if signature in case.signatures))
    not_run = _run_cases(runtime, golden.cases, judge, workers, counter)
    if of_words:
        cases = [case for case in golden.cases if LOGITS_AT in case.signatures]
        for case, found in compute_in_order(partial(_logits_at, runtime), cases, workers):
            judge.compare_logits_at(case, found)
            counter.count(case)
    if STEP in signatures:
        runtime.forget(LOGITS_AT)
        cases = [case for case in golden.cases if STEP in case.signatures]
        for case, found in compute_in_order(partial(_in_steps, runtime), cases, workers):
            judge.compare_steps(case, found)
            counter.count(case)
        runtime.forget(STEP)
    judge.conclude()
    if not_run:
        verdict.faults.append(f"not run, since shorter cases failed: {', '.join(not_run)}")
    # A wrong tensor is named where it began; what it does to answers would hide that.
    if len(verdict.faults) == len(verdict.wrong_text):
        wrong = check_answers(runtime, golden.text.answers, precision)
        verdict.wrong_text += wrong
        verdict.faults += wrong
    return verdict


def _run_cases(runtime: Runtime, cases: Sequence[Case], judge: "_Judge", workers: int, counter: Counter) -> list[str]:
    """Run each case through its signatures, the short cases first. Returns the cases not run after a failure."""
    plan = {
        signature: sorted((case for case in cases if signature in case.signatures), key=lambda case: not case.is_short)
        for signature in runtime.signatures
    }
    left = {signature: len(some) for signature, some in plan.items()}
    not_run = []

    def pairs() -> Iterator[tuple[str, Case]]:
        for signature, some in plan.items():
            for done in [name for name, count in left.items() if not count]:
                runtime.forget(done)  # before the next signature takes memory of its own
                del left[done]
            for case in some:
                if case.is_short or not judge.has_failed():
                    yield signature, case
                else:
                    left[signature] -= 1
                    not_run.append(case.name)

    def run(pair: tuple[str, Case]) -> tuple[Outputs, dict[int, Outputs]]:
        signature, case = pair
        names = runtime.signatures[signature]
        rows = case.alone if signature == "serving_default" else ()
        return runtime.run(case.inputs, names), {row: runtime.run(case.row_alone(row), names) for row in rows}

    waiting = pairs()
    # The first signature's short cases show what is plainly wrong: they are judged before a long case begins.
    quick = islice(waiting, sum(case.is_short for case in next(iter(plan.values()))))
    runs = chain(compute_in_order(run, quick, workers), compute_in_order(run, waiting, workers, _AHEAD))
    for (signature, case), (found, alone) in runs:
        if judge.compare(case, signature, runtime.signatures[signature], found):
            judge.compare_alone(case, alone, found)
        counter.count(case)
        left[signature] -= 1
    for signature in left:
        runtime.forget(signature)
    return list(dict.fromkeys(not_run))


def _logits_at(runtime: Runtime, case: Case) -> NDArray:
    """In reverse: the requested order must differ from the tokens' order in the case."""
    return runtime.logits_at(case.inputs, case.logit_positions[::-1])


def _in_steps(runtime: Runtime, case: Case) -> NDArray:
    """Logits [B, T, V] of a case that is read in pieces: half of it, one token, and the rest."""
    half = case.inputs.input_ids.shape[1] // 2
    past, pieces = None, []
    for columns in (slice(half), slice(half, half + 1), slice(half + 1, None)):
        piece = Inputs.of(**{name: array[:, columns] for name, array in case.inputs.as_dict().items()})
        outputs, past = runtime.step(piece, past)
        pieces.append(outputs["logits"])
    return np.concatenate(pieces, axis=1)


class _Judge:
    def __init__(self, golden: Golden, verdict: Verdict) -> None:
        self._golden = golden
        self._verdict = verdict
        self._gates = verdict.gates
        self._tolerance = _UNIT if self._gates is None else _NOT_JUDGED
        if isinstance(self._gates, FloatTolerance):
            self._tolerance = self._gates
        self._logits: list[tuple[NDArray, NDArray]] = []
        self._steps: list[tuple[NDArray, NDArray]] = []
        self._labels: list[tuple[NDArray, NDArray]] = []
        self._weights: list[tuple[NDArray, NDArray]] = []
        self._cosines: dict[str, list[NDArray[np.float64]]] = {}
        self._sentences = Sentences()

    def has_failed(self) -> bool:
        """Whether an output so far differed too much, or could not be compared."""
        return any(
            difference.fault or (self._gates is not None and not difference.passed)
            for difference in self._verdict.differences
        )

    def compare(self, case: Case, signature: str, names: Sequence[str], found: Outputs) -> bool:
        """Compare one run's outputs with the golden ones, on real tokens. Returns whether all could be compared."""
        comparable = True
        for name in names:
            expected = self._golden.reference[case.name][name]
            difference, pair = self._compare_one(case, signature, name, found.get(name), expected)
            self._verdict.differences.append(difference)
            comparable = comparable and difference.fault is None
            if pair is None or not isinstance(self._gates, QuantizedGates):
                continue
            if case.kind == MASKED and name == "logits":
                self._sentences.logits.append(pair)
            elif self._golden.per[name] == POSITION:
                self._logits.append(pair)
            elif name in ("logits", MATCH_LOGITS):
                self._labels.append(pair)
            elif name == TOKEN_WEIGHTS:
                self._weights.append(pair)
            else:
                self._cosines.setdefault(name, []).append(cosines(*pair).ravel())
            if case.kind == SENTENCES and name == "last_hidden_state":
                self._sentences.add(case.inputs.attention_mask, *pair)
            if (name, case.kind) in ((SENTENCE_EMBEDDING, SENTENCES), (TERM_WEIGHTS, MASKED)):
                self._sentences.vectors.append(pair)
        return comparable

    def compare_alone(self, case: Case, by_row: Mapping[int, Outputs], together: Outputs) -> None:
        """Padded = unpadded and batched = single: each row, run alone, must equal the same golden row."""
        for row, alone in by_row.items():
            length = case.row_alone(row).input_ids.shape[1]
            name_of_row = f"{case.name}, row {row} alone"
            for name, batched in together.items():
                per = self._golden.per[name]
                cut = batched[row : row + 1, :length] if per in (TOKEN, POSITION) else batched[row : row + 1]
                found, expected = alone[name], self._golden.reference[case.name][name]
                if found.shape != cut.shape:
                    expected = cut  # `compare` will report the shape
                else:
                    if per == TOKEN:
                        expected = expected[row, None, :length]
                    elif per != POSITION:
                        expected = expected[row, None]
                    if per in _OF_IMAGES:
                        own = case.meaningful(per)[row, None]
                        if not own.any():
                            continue
                        cut, found, expected = cut[own], found[own], expected[own]
                    change = float(np.abs(cut - found).max())
                    self._verdict.change_alone = max(self._verdict.change_alone, change)
                    if per == POSITION:
                        at = case.logit_positions[:, 0] == row
                        found, expected = found[0, case.logit_positions[at, 1]], expected[at]
                self._verdict.differences.append(
                    compare(
                        name_of_row,
                        "serving_default",
                        name,
                        found,
                        expected,
                        self._tolerance,
                        self._golden.scale(name, expected),
                    )
                )

    def compare_logits_at(self, case: Case, found: NDArray) -> None:
        """Logits at chosen positions only, as `_logits_at` requests them, must equal the oracle's there."""
        expected = self._golden.reference[case.name]["logits"][::-1]
        scale = self._golden.scale("logits", expected)
        difference = compare(case.name, LOGITS_AT, "logits", found, expected, self._tolerance, scale)
        self._verdict.differences.append(difference)
        if isinstance(self._gates, QuantizedGates) and not difference.fault:
            self._logits.append((found, expected))

    def compare_steps(self, case: Case, found: NDArray) -> None:
        """Logits of a step with a cache, as `_in_steps` reads them, must equal the oracle's of the whole pass."""
        expected = self._golden.reference[case.name]["logits"]
        finite = np.isfinite(found).all()  # at padding, too
        found = found[tuple(case.logit_positions.T)] if finite else np.full(expected.shape, np.nan)
        scale = self._golden.scale("logits", expected)
        difference = compare(f"{case.name}, in steps", STEP, "logits", found, expected, self._tolerance, scale)
        self._verdict.differences.append(difference)
        if isinstance(self._gates, QuantizedGates) and not difference.fault:
            self._steps.append((found, expected))

    def conclude(self) -> None:
        """Turn the measurements into faults."""
        verdict = self._verdict
        for difference in sorted(verdict.worst().values(), key=lambda difference: difference.rank, reverse=True):
            if difference.fault or (self._gates is not None and not difference.passed):
                verdict.faults.append(f"{difference.output} ({difference.case}): {difference.explain()}")
        if isinstance(self._gates, QuantizedGates):
            joined = {name: np.concatenate(arrays) for name, arrays in self._cosines.items()}
            if self._weights:  # one number for each token: all cases' tokens are one vector
                joined[TOKEN_WEIGHTS] = np.atleast_1d(cosines(*join(self._weights)))
            verdict.cosine = {name: float(values.min()) for name, values in joined.items()}
            verdict.cosine_mean = {name: float(values.mean()) for name, values in joined.items()}
            if self._logits:
                verdict.quality = measure_quality(*join(self._logits), self._gates.lead)
            if self._labels:
                verdict.label_error = relative_error(
                    *(np.concatenate([array.ravel() for array in arrays]) for arrays in zip(*self._labels, strict=True))
                )
            verdict.sentences = self._sentences.measure(self._gates.lead)
            sound = not verdict.faults
            verdict.faults += _judge_quality(verdict, self._gates)
            if sound and verdict.faults and not verdict.change_alone:
                verdict.faults.append(_TOO_COARSE)
                verdict.too_coarse = True
            if self._steps:  # too few to judge their worst by
                found = measure_quality(*join(self._steps), self._gates.lead).kl_mean
                if not found <= self._gates.kl_mean:
                    verdict.faults.append(
                        f"in steps: kl_mean: expected at most {self._gates.kl_mean:.0e}; found {found:.2e}"
                    )
        bad = verdict.first_bad_layer()
        if bad:
            number = int(bad.rpartition(".")[2])
            of = "the image's layer" if bad.startswith(IMAGE_PREFIX) else "layer"
            made_by = f"the output of {of} {number - 1}" if number else "the embeddings"
            verdict.faults.insert(0, f"first layer that differs: {bad}, {made_by}")

    def _compare_one(
        self, case: Case, signature: str, name: str, found: NDArray | None, expected: NDArray
    ) -> tuple[Difference, tuple[NDArray, NDArray] | None]:
        """The difference, and both arrays at the meaningful places, one vector each."""
        real = case.inputs.attention_mask == 1
        per = self._golden.per[name]
        got = found
        # Nothing else would show a mask that is not read.
        if name in ZERO_AT_PADDING and found is not None and found.shape == expected.shape and found[~real].any():
            fault = f"expected 0 at padding; found up to {np.abs(found[~real]).max():.2e}"
            return Difference(case.name, signature, name, np.inf, np.inf, (), fault, passed=False), None
        if found is not None and np.isfinite(found).all():
            # A row of nothing but padding means nothing, and neither does a padded token, but NaN there
            # is still a fault: it is left for `compare` to see.
            keep = case.meaningful(ROW if per == POSITION else per)
            if per == POSITION and found.shape == (*real.shape, expected.shape[-1]):
                got = found[tuple(case.logit_positions.T)]
            elif found.shape == expected.shape:
                if per in _OF_IMAGES and not keep.any():  # text alone: of these, nothing more can be judged
                    return Difference(case.name, signature, name, 0.0, 0.0, (), None, passed=True), None
                got, expected = found[keep], expected[keep]
        scale = self._golden.scale(name, expected)
        difference = compare(case.name, signature, name, got, expected, self._tolerance, scale)
        return difference, None if difference.fault or got is None else (got, expected)


def _judge_logits(quality: Quality, gates: QuantizedGates) -> list[str]:
    faults = []
    for name in ("top1", "top5"):
        found, allowed = getattr(quality, name), getattr(gates, name)
        if found is not None and not found >= allowed:
            faults.append(f"{name} agreement: expected at least {allowed}; found {found:.3f}")
    for name in ("kl_mean", "kl_p99"):
        found, allowed = getattr(quality, name), getattr(gates, name)
        if not found <= allowed:
            faults.append(f"{name}: expected at most {allowed:.0e}; found {found:.2e}")
    return faults


def _judge_quality(verdict: Verdict, gates: QuantizedGates) -> list[str]:
    faults = []
    if verdict.change_alone:
        faults.append(f"a row changes by {verdict.change_alone:.2e} when it is run alone; must be bit-identical")
    of_sentences = verdict.sentences.masked if verdict.sentences else None
    for where, quality in (("", verdict.quality), ("masked sentences: ", of_sentences)):
        faults += [f"{where}{fault}" for fault in _judge_logits(quality, gates)] if quality else []
    if verdict.label_error is not None and not verdict.label_error <= gates.label_error:
        found = f"expected at most {gates.label_error}; found {verdict.label_error:.3f}"
        faults.append(f"{verdict.labels}: relative error: {found}")
    if verdict.sentences:
        faults += judge_sentences(verdict.sentences, gates)
    for name, cosine in verdict.cosine.items():
        if not cosine >= gates.cosine:
            faults.append(f"{name}: lowest cosine: expected at least {gates.cosine}; found {cosine:.5f}")
    for name, cosine in verdict.cosine_mean.items():
        if not cosine >= gates.cosine_mean:
            faults.append(f"{name}: mean cosine: expected at least {gates.cosine_mean}; found {cosine:.5f}")
    return faults
