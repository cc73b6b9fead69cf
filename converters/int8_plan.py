"""Int8Plan: the parameters that become int8, and the outlier channels. Every int8 target starts from it."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.int8_outliers import Calibration, choose_calibration, find_outliers, may_have_outliers
from yizhi.converters.quantize import Outliers, outliers_of, quantize_in_chunks, scale_of
from yizhi.converters.weight_file import StoredTensor, WeightFile
from yizhi.errors import InputError
from yizhi.model.spec import KERNEL, EncoderSpec, MaskedLMHead, parameters_of
from yizhi.reading.checkpoint import Checkpoint


@dataclass(frozen=True)
class Int8Plan:
    """names: the parameters that become int8. checked: kernels whose integer sums `verify` compares with exact ones.

    calibration: the rows that the outlier channels were found on.
    """

    names: Collection[str]
    outliers: Outliers
    checked: Sequence[str]
    calibration: Calibration

    def describe(self, stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """`quantization` of `artifact.json`. stored: dtype, offset and shape of each tensor that was written."""
        return {
            "checked": self.checked,
            "stored": stored,
            "outliers": self.outliers.channels,
            "smoothed": self.outliers.smoothed,
            "calibration": self.calibration.describe(),
        }


def plan_int8(
    checkpoint: Checkpoint, keep_fp32: Collection[str], calibration: Sequence[Sequence[int]], outlier_channels: bool
) -> Int8Plan:
    """Choose the parameters that become int8, and find the outlier channels.

    keep_fp32: beginnings of the names of parameters that stay float32, as in `kept_names`.
    calibration: rows of ids, special tokens included, to find outlier channels on; if empty, as `choose_calibration`.
    outlier_channels: False treats none apart, to measure their worth.
    Raises InputError for a beginning that no quantized parameter has.
    """
    spec = checkpoint.spec
    names = quantized_names(spec) - kept_names(spec, keep_fp32)
    chosen = choose_calibration(checkpoint, calibration)
    sought = names & may_have_outliers(spec) if outlier_channels else set()
    outliers = find_outliers(checkpoint, sought, chosen.rows)
    return Int8Plan(names, outliers, [name for name in one_of_each_kind(spec) if name in names], chosen)


def write_weights(
    file: BinaryIO,
    checkpoint: Checkpoint,
    plan: Int8Plan,
    float32: Any,
    int8: Any,
) -> WeightFile:
    """Append every parameter: quantized, if the plan names it, with its scales and outlier columns.

    float32, int8: the graphs' names of these types.
    """
    weights = WeightFile(file)
    with ThreadPoolExecutor() as pool:
        for parameter in checkpoint.parameters():
            if parameter.name not in plan.names:
                weights.add(parameter.name, float32, parameter.shape, checkpoint.chunks(parameter))
                continue
            scales: list[NDArray[np.float32]] = []
            if plan.outliers.in_float32(parameter.name):
                columns = np.ascontiguousarray(columns_of(checkpoint, parameter.name, plan.outliers).T)
                weights.add(outliers_of(parameter.name), float32, columns.shape, [columns.data])
            rows = quantize_in_chunks(
                checkpoint.blocks(parameter.name), scales, pool, partial(plan.outliers.prepare, parameter.name)
            )
            weights.add(parameter.name, int8, parameter.shape, (chunk.data for chunk in rows))
            weights.add(scale_of(parameter.name), float32, parameter.shape[:1], (chunk.data for chunk in scales))
            checkpoint.release(parameter.name)
    return weights


def columns_of(checkpoint: Checkpoint, name: str, outliers: Outliers) -> NDArray[np.float32]:
    """The columns [outputs, count] of a kernel's outlier channels."""
    return np.concatenate([block[:, outliers.of(name)] for block in checkpoint.blocks(name)])


def describe_stored(stored: Mapping[str, StoredTensor]) -> dict[str, dict[str, Any]]:
    """For `artifact.json`, where each tensor lies. Those with a scale are int8."""
    return {
        name: {
            "dtype": "int8" if scale_of(name) in stored else "float32",
            "offset": tensor.offset,
            "shape": tensor.shape,
        }
        for name, tensor in stored.items()
    }


def one_of_each_kind(spec: EncoderSpec) -> list[str]:
    """The kernels whose integer sums `verify` compares with exact ones.

    Each kind of a layer's, that of a region's features, and the head's.
    """
    layer = spec.layers[0]
    parts = [layer.query, layer.attention_output, layer.intermediate, layer.output]
    names = [part.weight for part in (*parts, *([spec.image.features] if spec.image else []))]
    if isinstance(spec.head, MaskedLMHead):
        names += [*([spec.head.dense.weight] if spec.head.dense else []), spec.head.decoder]
    return names


def quantized_names(spec: EncoderSpec) -> set[str]:
    """The parameters stored as int8: kernels, word embeddings and the MLM decoder.

    Position and token-type embeddings stay float32: they are small, and every token adds them. So do Dense modules
    after pooling, which run once for a row, and the one vector that token weights are products with: in int8 their
    cosine was 0.953 at 4 × 768 with outlier channels, where it is 0.9995. A region's five numbers of a place and the
    match of a text with an image stay float32, too: both products are small.
    """
    names = {parameter.name for parameter in spec.parameters() if parameter.kind == KERNEL}
    names.add(spec.word_embeddings.weight)
    if isinstance(spec.head, MaskedLMHead):
        names.add(spec.head.decoder)
    of_image = (spec.image.boxes, spec.image.match) if spec.image else ()
    kept = (spec.pooling, spec.token_weights, *of_image)
    return names - {parameter.name for part in kept for parameter in parameters_of(part)}


def kept_names(spec: EncoderSpec, beginnings: Collection[str]) -> set[str]:
    """The quantized parameters with one of these beginnings, part by part, with or without the family's prefix.

    `encoder.layer.1` is not layer 11. Raises InputError for a beginning that no name has.
    """
    kept: set[str] = set()
    faults = []
    for beginning in beginnings:
        found = {
            name
            for name in quantized_names(spec)
            if any(f"{form}.".startswith(f"{beginning}.") for form in (name, name.partition(".")[2]))
        }
        if not found:
            faults.append(f"{beginning}: no quantized parameter's name begins so")
        kept |= found
    if faults:
        raise InputError("`keep_fp32`", faults)
    return kept
