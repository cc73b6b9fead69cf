"""Write a .tflite model over int8 weights, with activations quantized per token. docs/int8.md is the contract."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.int8_plan import columns_of, plan_int8
from yizhi.converters.litert_file import write_model
from yizhi.converters.litert_graph import FLOAT, INT8, Buffers, Weight
from yizhi.converters.litert_int8_graph import Int8Graph
from yizhi.converters.quantize import outliers_of, quantize_in_chunks, scale_of, scales_of_rows
from yizhi.converters.to_litert import build_signatures
from yizhi.model.layout import LITERT_MODEL
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter


def convert(
    checkpoint: Checkpoint,
    writer: ArtifactWriter,
    keep_fp32: Collection[str] = (),
    calibration: Sequence[Sequence[int]] = (),
    outlier_channels: bool = True,
) -> None:
    """Write `model.tflite` with kernels and word embeddings as int8.

    The arguments and errors are those of `plan_int8`.
    """
    plan = plan_int8(checkpoint, keep_fp32, calibration, outlier_channels)
    outliers = plan.outliers
    with writer.open(LITERT_MODEL) as file, ThreadPoolExecutor() as pool:
        weights: dict[str, Weight] = {}
        contents: dict[str, Callable[[], Iterable[bytes | memoryview]]] = {}
        for parameter in checkpoint.parameters():
            name = parameter.name
            if name not in plan.names:
                weights[name] = Weight(FLOAT, parameter.shape)
                contents[name] = partial(checkpoint.chunks, parameter)
                continue
            if outliers.in_float32(name):
                columns = np.ascontiguousarray(columns_of(checkpoint, name, outliers))
                weights[outliers_of(name)] = Weight(FLOAT, columns.shape)
                contents[outliers_of(name)] = partial(iter, [columns.data])
            prepare = partial(outliers.prepare, name)
            scales = [scales_of_rows(prepare(block)) for block in checkpoint.blocks(name)]
            weights[name] = Weight(INT8, parameter.shape, np.concatenate(scales))
            contents[name] = partial(_quantize, checkpoint, name, pool, prepare)
            checkpoint.release(name)
        buffers = Buffers(weights)
        signatures = build_signatures(partial(Int8Graph, buffers, outliers), checkpoint.spec)
        offsets = write_model(file, buffers, signatures, lambda name: contents[name]())
    places = {name: _describe(weights, name, offset) for name, offset in offsets.items()}
    writer.say("quantization", plan.describe(places))


def _describe(weights: Mapping[str, Weight], name: str, offset: int) -> dict[str, object]:
    """Where a weight lies, or its scales, as `artifact.json` has it."""
    if name not in weights:
        return {"dtype": "float32", "offset": offset, "shape": weights[name.removesuffix(scale_of(""))].shape[:1]}
    dtype = "int8" if weights[name].dtype == INT8 else "float32"
    return {"dtype": dtype, "offset": offset, "shape": weights[name].shape}


def _quantize(
    checkpoint: Checkpoint,
    name: str,
    pool: ThreadPoolExecutor,
    prepare: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Iterator[memoryview]:
    """The bytes of an int8 kernel, in pieces."""
    for rows in quantize_in_chunks(checkpoint.blocks(name), [], pool, prepare):
        yield rows.data
    checkpoint.release(name)
