"""Compares an artifact's stored tensors with the checkpoint's, bit for bit, whatever the cases show.

The cases catch wrong arithmetic. They read few rows of an embedding table, so wrong numbers are caught here.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.quantize import Outliers, outliers_of, quantize_rows, scale_of
from yizhi.converters.targets import KEEP_BF16, TARGETS, Target
from yizhi.errors import InputError
from yizhi.model.layout import transposes
from yizhi.parity.numbers import audit_sums
from yizhi.parity.record import WeightAudit
from yizhi.parity.workers import compute_in_order
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.stored_tensors import TensorPlace, read_dense
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.storage.codec import LEFT_OUT

_MOST_FAULTS = 5
# Tensors that wait while a large one is compared.
_AHEAD = 16
_CHUNK_VALUES = 1 << 18  # of float32: what a processor's second cache holds

# A parameter's float32 values; None where they are not at hand.
Source = Callable[[str], NDArray[np.float32] | None]


@dataclass(frozen=True)
class TensorDigest:
    """A parameter's shape, and sha256 of its float32 values, row-major and little-endian.

    transposed: of its transpose, for kernels: Flax and TensorFlow store the transpose.
    """

    shape: tuple[int, ...]
    sha256: str
    transposed: str | None = field(default=None, metadata=LEFT_OUT)


def digest_tensors(checkpoint: Checkpoint) -> dict[str, TensorDigest]:
    """The digests of every parameter."""
    found = {}
    for parameter in checkpoint.parameters():
        turned = _hash(checkpoint.chunks(parameter, transpose=True)) if transposes(parameter) else None
        found[parameter.name] = TensorDigest(parameter.shape, _hash(checkpoint.chunks(parameter)), turned)
    return found


def audit(
    artifact: Artifact,
    expected: Mapping[str, TensorDigest],
    sums: Mapping[str, NDArray[np.float32]],
    checkpoint: Checkpoint | None = None,
    workers: int = 1,
) -> tuple[WeightAudit, list[str]]:
    """The number of compared tensors, and a fault for each tensor that differs from the checkpoint's numbers.

    float32 tensors are compared by their digests, and bfloat16 tensors by their numbers' as float32. int8 tensors are
    compared bit for bit with the float32 numbers, quantized again. These come from the checkpoint, or from a float32
    artifact next to this one with the same digests.
    Without either, `sums` are compared: see `yizhi.parity.numbers`. Raises InputError if the files cannot be read.
    """
    tensors = TARGETS[artifact.target].stored_tensors(artifact.folder) + read_dense(artifact.folder)
    source = _of_checkpoint(checkpoint, expected) if checkpoint else _of_siblings(artifact, expected)
    let_go = checkpoint.release if checkpoint else None
    description = artifact.description
    keeps_bf16 = bool(description.get("options", {}).get(KEEP_BF16))
    compared = _Audit(expected, sums, description.get("quantization"), source, let_go, keeps_bf16)
    compared.look_at(tensors, workers)
    return compared.result, _shorten(compared.faults)


class _Audit:
    def __init__(
        self,
        expected: Mapping[str, TensorDigest],
        sums: Mapping[str, NDArray[np.float32]],
        quantization: Mapping[str, Any] | None,
        source: Source,
        let_go: Callable[[str], None] | None = None,
        keeps_bf16: bool = False,
    ) -> None:
        self._expected, self._sums, self._source, self._let_go = expected, sums, source, let_go
        self._quantization, self._exact = quantization, ("F32", "BF16") if keeps_bf16 else ("F32",)
        said = quantization or {}
        self._outliers = Outliers(said.get("outliers", {}), said.get("smoothed", ()))
        self._counts: Counter[str] = Counter()
        self.faults: list[str] = []

    @property
    def result(self) -> WeightAudit:
        return WeightAudit(**self._counts)

    def look_at(self, tensors: Iterable[TensorPlace], workers: int) -> None:
        by_file: dict[str, dict[str, TensorPlace]] = {}
        places: dict[str, list[TensorPlace]] = {}
        for tensor in tensors:
            if by_file.setdefault(tensor.file, {}).setdefault(tensor.name, tensor) is not tensor:
                self.faults.append(f"{tensor.file}: {tensor.name}: is stored twice")
            others = places.setdefault(tensor.name, [])
            if not any(_is_same(tensor, other) for other in others):
                others.append(tensor)
        self._check_names(places)
        if self._quantization:
            self._check_description(places)
        pairs = ((name, tensor) for name in self._expected for tensor in places.get(name, ()))

        def compare(pair: tuple[str, TensorPlace]) -> tuple[str | None, list[str]]:
            return self._compare(*pair, by_file[pair[1].file])

        for _, (how, faults) in compute_in_order(compare, pairs, workers, _AHEAD):
            self._counts.update([how] if how else [])
            self.faults += faults

    def _check_names(self, places: Mapping[str, list[TensorPlace]]) -> None:
        known = set(self._expected)
        if self._quantization:
            known |= {form for name in self._expected for form in (scale_of(name), outliers_of(name))}
        self.faults += [f"{name}: is not stored" for name in self._expected if name not in places]
        self.faults += [
            f"{found[0].file}: {name}: not a tensor of the checkpoint"
            for name, found in places.items()
            if name not in known
        ]

    def _check_description(self, places: Mapping[str, list[TensorPlace]]) -> None:
        """Compare the graphs with `artifact.json`: both must name the same bytes.

        Runtimes read the graphs, and audits read the file.
        """
        said = self._quantization["stored"] if self._quantization else {}
        for name, found in places.items():
            for tensor in found:
                if tensor.path.suffix == ".safetensors":  # of a Dense module: no graph has it from there
                    continue
                place = said.get(name)
                if place is None or (place["offset"], tuple(place["shape"])) != (tensor.spans[0][0], tensor.shape):
                    self.faults.append(f"{tensor.file}: {name}: lies elsewhere than {DESCRIPTION} says")

    def _compare(
        self, name: str, tensor: TensorPlace, beside: Mapping[str, TensorPlace]
    ) -> tuple[str | None, list[str]]:
        """How a tensor was compared, as `WeightAudit` counts it, and its fault, if any."""
        expected = self._expected[name]
        shape = expected.shape[::-1] if tensor.transposed else expected.shape
        if tensor.shape != shape:
            return None, [f"{tensor.file}: {name}: expected {list(shape)}; found {list(tensor.shape)}"]
        if tensor.dtype in self._exact:
            same = _hash(tensor.float32_chunks()) == (expected.transposed if tensor.transposed else expected.sha256)
            return "exact", [] if same else [f"{tensor.file}: {name}: differs from the checkpoint's"]
        if self._quantization and tensor.dtype == "I8":
            return self._compare_quantized(name, tensor, beside)
        return None, [f"{tensor.file}: {name}: expected {' or '.join(self._exact)}; found {tensor.dtype}"]

    def _compare_quantized(
        self, name: str, tensor: TensorPlace, beside: Mapping[str, TensorPlace]
    ) -> tuple[str | None, list[str]]:
        outliers = self._outliers
        needed = [scale_of(name), *([outliers_of(name)] if outliers.in_float32(name) else [])]
        missing = [other for other in needed if other not in beside]
        if missing:
            return None, [f"{tensor.file}: {other}: is not stored" for other in missing]
        scales = beside[scale_of(name)].array()
        columns = beside[outliers_of(name)].array() if outliers.in_float32(name) else None
        original = self._source(name)
        if original is None:
            return "rounded", audit_sums(name, tensor.array(), scales, columns, outliers, self._sums[name])
        faults = []
        wrong = _wrong_rows(original, tensor.array(), scales, partial(outliers.prepare, name))
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            faults.append(
                f"{tensor.file}: {name}: row {wrong[0]}{more}: differs from the checkpoint's numbers, quantized"
            )
        if columns is not None and not np.array_equal(columns, original[:, outliers.of(name)].T):
            faults.append(f"{tensor.file}: {outliers_of(name)}: differs from the checkpoint's")
        if self._let_go:
            self._let_go(name)  # the checkpoint's pages, which are four times the artifact's
        return "requantized", faults


def _wrong_rows(
    original: NDArray[np.float32],
    values: NDArray[np.int8],
    scales: NDArray[np.float32],
    prepare: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> list[int]:
    """The rows whose int8 values or scale differ from the quantized numbers of the checkpoint."""
    step = max(1, _CHUNK_VALUES // original.shape[1])
    wrong: list[int] = []
    for start in range(0, len(original), step):
        rows, own = quantize_rows(prepare(original[start : start + step]))
        same = (rows == values[start : start + step]).all(axis=1) & (own == scales[start : start + step])
        wrong += (start + np.flatnonzero(~same)).tolist()
    return wrong


def _of_checkpoint(checkpoint: Checkpoint, expected: Mapping[str, TensorDigest]) -> Source:
    """The checkpoint's tensors, each only if the release was made from it."""
    parameters = {parameter.name: parameter for parameter in checkpoint.parameters()}

    def find(name: str) -> NDArray[np.float32] | None:
        if name not in parameters or _hash(checkpoint.chunks(parameters[name])) != expected[name].sha256:
            return None
        return checkpoint.array(name)

    return find


def _of_siblings(artifact: Artifact, expected: Mapping[str, TensorDigest]) -> Source:
    """The tensors of float32 artifacts in the same release, each only if its digest is the checkpoint's."""

    beside = {
        target: folder
        for target in TARGETS.values()
        if target.precision == "fp32" and ((folder := artifact.folder.parent / target.name) / DESCRIPTION).is_file()
    }

    @cache
    def stored(target: Target) -> list[TensorPlace]:
        with suppress(InputError):  # the verification of that artifact lists the fault
            return target.stored_tensors(beside[target])
        return []

    if beside:  # the first holds every tensor, unless it is damaged: read once, before several threads ask for it
        stored(next(iter(beside)))

    def find(name: str) -> NDArray[np.float32] | None:
        for tensor in chain.from_iterable(map(stored, beside)):
            if tensor.name == name and tensor.dtype in ("F32", "BF16"):
                digest = expected[name].transposed if tensor.transposed else expected[name].sha256
                with suppress(InputError):
                    if _hash(tensor.float32_chunks()) == digest:
                        array: NDArray[np.float32] = tensor.array()
                        return array if array.shape == expected[name].shape else None
        return None

    return find


def _is_same(one: TensorPlace, other: TensorPlace) -> bool:
    return (one.dtype, one.shape, one.path, one.spans) == (other.dtype, other.shape, other.path, other.spans)


def _hash(chunks: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _shorten(faults: list[str]) -> list[str]:
    if len(faults) <= _MOST_FAULTS:
        return faults
    return [*faults[:_MOST_FAULTS], f"and {len(faults) - _MOST_FAULTS} more faults of stored tensors"]
