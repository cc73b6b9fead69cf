"""Outlier channels: channels of a linear layer's input that are large for every token, and spoil the others' rounding.

A token is quantized by its largest magnitude. Trained encoders have a few channels that are 5 to 20 times as large as
the rest (Dettmers et al. 2022, arXiv:2208.07339), and few of the 127 steps are left for the rest. Outlier channels are
found on calibration tokens, and their part of the product is computed in float32. At a layer's two inputs they are
smoothed instead, if that is enough: int8 multiplies them, a quarter as large, which takes less time.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime import OrtValue

from yizhi.converters.forwards.onnx import build_encoder
from yizhi.converters.quantize import SMOOTHING, Outliers
from yizhi.converters.to_onnx import Float32Graph
from yizhi.converters.weight_file import StoredTensor
from yizhi.model.empty_image import no_image
from yizhi.model.spec import EncoderSpec, Linear
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentences import everyday_rows

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

# The most channels of one input: on all-MiniLM-L6-v2, 8 gained little over 4 (docs/int8.md).
MOST = 4
# What each channel must take from the mean square of the tokens' largest magnitudes, which int8's error grows with.
LEAST_GAIN = 0.08
# And all of them together: where any are worth their time on all-MiniLM-L6-v2, 0.62 or more; on zh-mini, 0.46 at most.
LEAST_GAIN_IN_ALL = 0.5
# Before attention, what they must take to be multiplied in float32 and not smoothed: on all-MiniLM-L6-v2, 0.57 and 0.62
# in two layers, 0.70 to 0.76 in the others.
LEAST_GAIN_IN_FLOAT32 = 0.65
# What a smoothed input's tokens may have of that mean square, beside the same input without its outliers: on
# all-MiniLM-L6-v2, 1.3 to 1.6.
MOST_LEFT = 2.0

# By NumPy's type of a stored tensor: uint16 are the bits of bfloat16.
_KINDS = {"float32": FLOAT, "float16": TensorProto.FLOAT16, "uint16": TensorProto.BFLOAT16}

_ROWS, _LENGTH = 24, 32
_KEY = 20_213


@dataclass(frozen=True)
class Magnitudes:
    """The largest magnitudes of each token's input, and their channels, largest first: [tokens, MOST + 1] each."""

    values: NDArray[np.float32]
    channels: NDArray[np.int64]


class _MeasuredGraph(Float32Graph):
    """A float32 graph that also gives what `Magnitudes` holds of the inputs of its linear layers."""

    def __init__(self, weights: Mapping[str, StoredTensor], measured: Collection[str]) -> None:
        super().__init__(weights)
        self._measured = measured
        self.used: list[str] = []
        self._taken: dict[str, tuple[str, str]] = {}
        self.taps: dict[str, list[tuple[str, str]]] = {}

    def stored(self, name: str) -> str:
        """An input of the graph, in `used`: ONNX Runtime copies initializers, and reads inputs where they lie."""
        if name not in self.used:
            self.used.append(self.input(name, self._weights[name].dtype, self._weights[name].shape))
        return name

    def linear(self, scope: str, weight: str, bias: str | None, x: str) -> str:
        """As in `Float32Graph`; what is measured stands in `taps` by weight, once per use."""
        if weight in self._measured:
            self.taps.setdefault(weight, []).append(self._measure(x, self._weights[weight].shape[1]))
        return super().linear(scope, weight, bias, x)

    def _measure(self, x: str, width: int) -> tuple[str, str]:
        if x not in self._taken:
            count = min(MOST + 1, width)
            values, channels = f"{x}.values", f"{x}.channels"
            inputs = [self.node(x, "Abs", [x]), self.constant(f"count.{count}", INT64, [count])]
            self.node(x, "TopK", inputs, result=values, second=channels)
            self.output(values, FLOAT, ("tokens", count))
            self.output(channels, INT64, ("tokens", count))
            self._taken[x] = values, channels
        return self._taken[x]


@dataclass(frozen=True)
class Calibration:
    """Rows of ids to find outlier channels on. of: `text` (a user's), `sentences` (everyday ones) or `ids` (random)."""

    of: str
    rows: Sequence[Sequence[int]]

    def describe(self) -> dict[str, str | int]:
        """For `artifact.json`."""
        return {"of": self.of, "rows": len(self.rows), "tokens": sum(map(len, self.rows))}


def choose_calibration(checkpoint: Checkpoint, given: Sequence[Sequence[int]] = ()) -> Calibration:
    """The user's rows; else everyday sentences, if the vocabulary has their words; else random ids."""
    if given:
        return Calibration("text", given)
    rows = everyday_rows(checkpoint.text, checkpoint.config.longest, others=True)
    return Calibration("sentences", rows) if rows else Calibration("ids", make_rows(checkpoint))


def find_outliers(checkpoint: Checkpoint, names: Collection[str], rows: Sequence[Sequence[int]]) -> Outliers:
    """The outlier channels of the inputs of these kernels; a kernel without any is left out.

    The feed-forward's input is smoothed, if `can_smooth` allows it. Attention's input is smoothed, if its channels take
    less than LEAST_GAIN_IN_FLOAT32. Elsewhere rounding costs more: inside the feed-forward, a channel is large on few
    tokens and has large weights (docs/int8.md).

    rows: ids to run, special tokens included.
    """
    if not names:
        return Outliers()
    by_length: dict[int, list[Sequence[int]]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    batches = (np.array(alike, np.int64) for _, alike in sorted(by_length.items()))
    measured = measure_magnitudes(checkpoint, names, batches)
    found = {name: choose_channels(magnitudes) for name, magnitudes in measured.items()}
    found = {name: channels for name, channels in found.items() if channels}
    layers = checkpoint.spec.layers
    wide = {part.weight for layer in layers for part in (layer.intermediate, layer.up) if part}
    attention = {part.weight for layer in layers for part in (layer.query, layer.key, layer.value)}
    smoothed = [
        name
        for name, channels in found.items()
        if (name in wide and can_smooth(measured[name], channels))
        or (name in attention and gain_of(measured[name], channels) < LEAST_GAIN_IN_FLOAT32)
    ]
    return Outliers(found, sorted(smoothed))


def may_have_outliers(spec: EncoderSpec) -> set[str]:
    """The kernels of the text's layers. The heads' see other vectors, or few; calibration rows have no images."""
    return {part.weight for layer in spec.layers for part in vars(layer).values() if isinstance(part, Linear)}


def choose_channels(magnitudes: Magnitudes) -> list[int]:
    """Up to MOST channels. Each is the one whose removal lowers the mean square of the largest magnitudes most.

    Each must lower that mean square by LEAST_GAIN on average, so that two channels that are alike are chosen together.
    """
    channels = magnitudes.channels
    removed: list[int] = []
    before = smallest = _mean_square(magnitudes, removed)
    chosen: list[int] = []
    while before and len(removed) < min(MOST, channels.shape[1] - 1):
        left = ~np.isin(channels, removed)
        largest = channels[np.arange(len(channels)), left.argmax(axis=1)]  # each token's, of those that are left
        after = {int(channel): _mean_square(magnitudes, [*removed, int(channel)]) for channel in np.unique(largest)}
        removed.append(min(after, key=lambda channel: (after[channel], channel)))
        if (weighed := after[removed[-1]] / (1 - LEAST_GAIN) ** len(removed)) < smallest:
            smallest, chosen = weighed, removed.copy()
    worth = _mean_square(magnitudes, chosen) <= before * (1 - LEAST_GAIN_IN_ALL)
    return sorted(chosen) if worth else []


def can_smooth(magnitudes: Magnitudes, outliers: list[int]) -> bool:
    """Whether smoothed channels leave the mean square of the largest magnitudes below MOST_LEFT times the others'."""
    left = _mean_square(magnitudes, outliers, 1 / SMOOTHING)
    return left <= MOST_LEFT * _mean_square(magnitudes, outliers)


def gain_of(magnitudes: Magnitudes, outliers: list[int]) -> float:
    """The share by which removing these channels lowers the mean square of the tokens' largest magnitudes."""
    return 1 - _mean_square(magnitudes, outliers) / _mean_square(magnitudes, [])


def _mean_square(magnitudes: Magnitudes, outliers: list[int], factor: float = 0.0) -> float:
    """Of the tokens' largest magnitudes, once those of these channels are multiplied by the factor."""
    values = magnitudes.values.astype(np.float64)
    values[np.isin(magnitudes.channels, outliers)] *= factor
    return float((values.max(axis=1) ** 2).mean())


def make_rows(checkpoint: Checkpoint) -> list[list[int]]:
    """[CLS] … [SEP] of any ids, the same for the same checkpoint."""
    length = min(_LENGTH, checkpoint.config.longest)
    random, tokens = np.random.Philox(key=_KEY), len(checkpoint.text.vocab)
    ids = (random.random_raw(_ROWS * length) % tokens).astype(np.int64).reshape(_ROWS, length)
    frame = checkpoint.text.frame
    return [frame.around(row) for row in ids[:, frame.begin : length - frame.end].tolist()]


def measure_magnitudes(
    checkpoint: Checkpoint, names: Collection[str], batches: Iterable[NDArray[np.int64]]
) -> dict[str, Magnitudes]:
    """Run the float32 encoder on rows of ids, none of them padded, and keep what is largest, by kernel."""
    spec = checkpoint.spec
    parameters = [parameter.name for parameter in spec.parameters()]
    arrays = {name: np.ascontiguousarray(checkpoint.stored(name)) for name in parameters}
    kinds = {name: _KINDS[array.dtype.name] for name, array in arrays.items()}
    graph = _MeasuredGraph({name: StoredTensor(kinds[name], arrays[name].shape, 0, 0) for name in arrays}, names)
    build_encoder(graph, spec, ["last_hidden_state"])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # A weight of 16 bits becomes float32 right before its use, and is freed after it. Nodes run in the graph's order;
    # optimized ones would run after every cast.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(
        graph.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    # Each is read where it lies.
    weights = {name: OrtValue.ortvalue_from_numpy_with_onnx_type(arrays[name], kinds[name]) for name in graph.used}
    wanted = sorted({output for taps in graph.taps.values() for tap in taps for output in tap})
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    for ids in batches:
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        inputs |= no_image(spec.config.image, len(ids)) if spec.config.image else {}
        given = {name: OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        for name, value in zip(wanted, session.run_with_ort_values(wanted, {**given, **weights}), strict=True):
            found[name].append(value.numpy())
    joined = {name: np.concatenate(arrays) for name, arrays in found.items()}
    for name in graph.used:
        checkpoint.release(name)
    return {
        name: Magnitudes(*(np.concatenate([joined[tap[part]] for tap in taps]) for part in (0, 1)))
        for name, taps in graph.taps.items()
    }
