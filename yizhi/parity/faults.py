"""Fault: one mistake of the kind that really happens, and how to make it on purpose.

A fault is written once and made everywhere: in the weights, in the configuration, or in functions of a forward pass.
The forwards and the oracle have the same names for the altered steps. So one replacement fits all of them.
`yizhi.parity.mutations` lists the faults. `mutation_table` shows that the gates catch each fault. `bisect` finds the
fault that would explain a failed artifact.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.targets import TARGETS
from yizhi.model.architectures import build_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import EncoderSpec, Layer, Parameter
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.safetensors_file import cut, widen

# Where a fault must first be seen; LAYER is the output of the one layer that it is made in, IMAGE_LAYER of the first
# that is an image's own.
EMBEDDINGS, FIRST_LAYER, LAYER, LAST_LAYER = "hidden_states.0", "hidden_states.1", "layer", "last layer"
IMAGE_EMBEDDINGS, IMAGE_LAYER, MATCH = "image_hidden_states.0", "image's own layer", "match_logits"
POOLER, LOGITS = "pooler_output", "logits"
IN_STEPS = "in steps"  # in no whole pass: what a step makes of its cache
TEXT = "text"  # before any output: what the artifact's files make of a user's text
STORED = "stored tensors"  # in no output: what no case reads, or too small to be judged

FP32, INT8 = (
    tuple(name for name, target in TARGETS.items() if target.precision == precision) for precision in ("fp32", "int8")
)


class Weights:
    """A checkpoint's arrays by name. Writing replaces an array here, and leaves the checkpoint unchanged."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.replaced: dict[str, NDArray[np.float32]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.replaced[name] if name in self.replaced else self._checkpoint.array(name)

    def __setitem__(self, name: str, array: NDArray) -> None:
        self.replaced[name] = np.ascontiguousarray(array, np.float32)

    def swap(self, one: str, other: str) -> None:
        """Exchange two arrays of equal shape."""
        self[one], self[other] = self[other], self[one]


class Forward:
    """A forward pass's module, with the arithmetic that a fault needs. `p`: the pass."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        # Significant bits of its numbers: the oracle's are float64.
        self.bits = 24 if module.__name__.startswith("yizhi.converters.") else 53

    def times(self, p: Any, x: Any, factor: float) -> Any:
        """x · factor."""
        return x * factor

    def times_heads(self, p: Any, x: Any, factors: NDArray[np.float32]) -> Any:
        """x [B, 1, 1, T] times a factor per head [A]: [B, A, 1, T]."""
        column = factors[:, None, None]
        return x * (self.module.torch.from_numpy(column) if hasattr(self.module, "torch") else column)

    def minus(self, p: Any, x: Any, y: Any) -> Any:
        """x − y."""
        return x - y

    def all_ones(self, p: Any, mask: Any) -> Any:
        """A mask [B, T] that hides nothing."""
        return mask * 0 + 1

    def own_tokens(self, p: Any, mask: Any, x: Any) -> Any:
        """[B, P + T] -> [B, T]: those of the pass, x [B, T, H], without the cached ones."""
        return mask[:, -x.shape[1] :]

    def roll_heads(self, p: Any, x: Any) -> Any:
        """Keys or values [B, K, P, d], each head's in the place of the one before."""
        return x[:, [*range(1, x.shape[1]), 0]]

    def first_tokens(self, p: Any, x: Any) -> Any:
        """[B, T, H] -> [B, H]."""
        return x[:, 0]

    def tokens_at(self, p: Any, x: Any) -> Any:
        """[B, T, H] -> [N, H]: those that the pass computes."""
        return x if getattr(p, "positions", None) is None else self.module.tokens_at(x, p.positions)


class OnnxForward(Forward):
    """The same arithmetic as nodes of a graph."""

    def times(self, p: Any, x: Any, factor: float) -> str:
        """x · factor."""
        return p.graph.node("fault", "Mul", [x, p.graph.constant(f"fault.{factor}", self.module.FLOAT, factor)])

    def times_heads(self, p: Any, x: Any, factors: NDArray[np.float32]) -> str:
        """x [B, 1, 1, T] times a factor per head [A]: [B, A, 1, T]."""
        vector = p.graph.constant("fault.heads", self.module.FLOAT, factors.tolist())
        axes = p.graph.constant("fault.axes", self.module.INT64, [1, 2])
        return p.graph.node("fault", "Mul", [x, p.graph.node("fault", "Unsqueeze", [vector, axes])])

    def minus(self, p: Any, x: Any, y: Any) -> str:
        """x − y."""
        return p.graph.node("fault", "Sub", [x, y])

    def all_ones(self, p: Any, mask: Any) -> str:
        """A mask [B, T] that hides nothing."""
        zeros = p.graph.node("fault", "Sub", [mask, mask])
        return p.graph.node("fault", "Add", [zeros, p.graph.constant("fault.one", self.module.INT64, 1)])

    def own_tokens(self, p: Any, mask: Any, *x: Any) -> str:
        """[B, P + T] -> [B, T]: those of the pass."""
        columns = p.graph.node("fault", "Transpose", [mask], perm=[1, 0])
        return p.graph.node("fault", "Transpose", [self.module.own_rows(p, "fault", columns)], perm=[1, 0])

    def roll_heads(self, p: Any, x: Any) -> str:
        """Keys or values [B, K, P, d], each head's in the place of the one before."""
        order = [*range(1, p.spec.config.num_key_value_heads), 0]
        return p.graph.node("fault", "Gather", [x, p.graph.constant("fault.order", self.module.INT64, order)], axis=1)

    def first_tokens(self, p: Any, x: Any) -> str:
        """[N, H] -> [B, H]."""
        return self.module.first_tokens(p, "fault", x)

    def tokens_at(self, p: Any, x: Any) -> str:
        """[N, H] -> [M, H]."""
        return self.module.tokens_at(p, "fault", x)


class LiteRTForward(Forward):
    """The same arithmetic as operators of a .tflite model."""

    def all_ones(self, p: Any, mask: Any) -> Any:
        """A mask [B, T] that hides nothing."""
        zeros = self.module.subtract(p.graph, "fault", mask, mask)
        return self.module.add(p.graph, "fault", zeros, p.graph.constant("fault.one", 1))

    def times(self, p: Any, x: Any, factor: float) -> Any:
        """x · factor."""
        return self.module.multiply(p.graph, "fault", x, p.graph.constant(f"fault.{factor}", factor, np.float32))

    def times_heads(self, p: Any, x: Any, factors: NDArray[np.float32]) -> Any:
        """x [B, 1, 1, T] times a factor per head [A]: [B, A, 1, T]."""
        column = p.graph.constant("fault.heads", factors[:, None, None], np.float32)
        return p.graph.node("fault", "MUL", [x, column], (x.shape[0], len(factors), *x.shape[2:]))

    def minus(self, p: Any, x: Any, y: Any) -> Any:
        """x − y."""
        return self.module.subtract(p.graph, "fault", x, y)

    def first_tokens(self, p: Any, x: Any) -> Any:
        """[B, T, H] -> [B, H]."""
        return self.module.first_tokens(p, "fault", x)

    def tokens_at(self, p: Any, x: Any) -> Any:
        """[B, T, H] -> [N, H]."""
        return self.module.tokens_at(p, "fault", x)


class OpenVinoForward(Forward):
    """The same arithmetic as operators of OpenVINO, which take no number of Python's for a float32."""

    def all_ones(self, p: Any, mask: Any) -> Any:
        """A mask [B, T] that hides nothing."""
        return self.module.ops.add(self.module.ops.subtract(mask, mask), np.int64(1))

    def times(self, p: Any, x: Any, factor: float) -> Any:
        """x · factor."""
        return self.module.ops.multiply(x, np.float32(factor))

    def times_heads(self, p: Any, x: Any, factors: NDArray[np.float32]) -> Any:
        """x [B, 1, 1, T] times a factor per head [A]: [B, A, 1, T]."""
        return self.module.ops.multiply(x, factors[:, None, None])

    def minus(self, p: Any, x: Any, y: Any) -> Any:
        """x − y."""
        return self.module.ops.subtract(x, y)

    def first_tokens(self, p: Any, x: Any) -> Any:
        """[B, T, H] -> [B, H]."""
        return self.module.first_tokens(x)


_FORWARDS = {"onnx": OnnxForward, "openvino": OpenVinoForward, "litert": LiteRTForward}


def forward_of(module: ModuleType) -> Forward:
    """The arithmetic that goes with a forward's module."""
    return _FORWARDS.get(module.__name__.rpartition(".")[2], Forward)(module)


# Wraps one function of a forward: (forward, the original) -> the faulty one.
Wrapper = Callable[[Forward, Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Fault:
    """One mistake.

    happens: how it happens in the field.
    shows: the first output that must show it. int8 has wider gates, and may show it later.
    weights: changes arrays, given the spec and the layer.
    config: keys of `config.json` and their wrong values.
    code: functions of a forward by name, each with its wrapper. All layers share the code.
    artifact: changes the files of a finished artifact, given the layer.
    graph: methods that quantize in a converter's module, such as `Int8Graph.quantize`, and their replacements.
    targets: the targets that can have and show it; `why_not` says why not the others.
    variant: the small checkpoint that it is made in.
    tasks: the heads that it can be made in, if it is made in the head.
    needs: what a spec must have.
    """

    name: str
    happens: str
    shows: str
    weights: Callable[[EncoderSpec, Layer, Weights], None] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Wrapper] = field(default_factory=dict)
    artifact: Callable[[Path, Layer], None] | None = None
    graph: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    targets: tuple[str, ...] = FP32 + INT8
    why_not: str = ""
    variant: str = "bert"
    tasks: tuple[str, ...] = ()
    needs: Callable[[EncoderSpec], bool] = lambda spec: True

    def __str__(self) -> str:
        return self.name

    @property
    def in_weights_alone(self) -> bool:
        """Whether the computation is right, over wrong weights."""
        return not (self.config or self.code or self.artifact or self.graph)

    @property
    def in_oracle(self) -> bool:
        """Whether the oracle can make the fault, too."""
        return not (self.artifact or self.graph)

    def first_output(self, spec: EncoderSpec, layer: int) -> str:
        """The first output that must show the fault when it is made in this layer."""
        named = {LAYER: f"hidden_states.{layer + 1}", LAST_LAYER: f"hidden_states.{len(spec.blocks)}"}
        if spec.image:
            named[IMAGE_LAYER] = f"image_hidden_states.{spec.image.shared + 1}"
        return named.get(self.shows, self.shows)

    def steps(self, module: ModuleType) -> dict[str, Callable[..., Any]]:
        """The faulty functions of a forward or of the oracle, by the names of the functions that they replace."""
        forward = forward_of(module)
        return {name: wrap(forward, getattr(module, name)) for name, wrap in self.code.items()}


class AlteredCheckpoint:
    """A checkpoint with a fault, for converters and the oracle, with the interface of `Checkpoint`."""

    def __init__(self, checkpoint: Checkpoint, fault: Fault, layer: Layer) -> None:
        self._original = checkpoint
        self._weights = Weights(checkpoint)
        if fault.weights:
            fault.weights(checkpoint.spec, layer, self._weights)
        self.folder, self.text, self.sentence = checkpoint.folder, checkpoint.text, checkpoint.sentence
        self._changed = dict(fault.config)
        self.config = EncoderConfig.from_dict({**checkpoint.config.raw, **fault.config})
        names = {parameter.name for parameter in checkpoint.parameters()} | self._weights.replaced.keys()
        self.spec: EncoderSpec = replace(build_spec(self.config, names), pooling=checkpoint.spec.pooling)

    def parameters(self) -> tuple[Parameter, ...]:
        """As `Checkpoint.parameters`."""
        return self.spec.parameters()

    def array(self, name: str) -> NDArray[np.float32]:
        """As `Checkpoint.array`."""
        return self._weights[name]

    def dtype_of(self, name: str, keep_bf16: bool) -> str:
        """As `Checkpoint.dtype_of`: a fault's numbers need float32."""
        return "F32"

    def chunks(self, parameter: Parameter, transpose: bool = False, dtype: str = "F32") -> Iterator[memoryview]:
        """As `Checkpoint.chunks`, as float32."""
        array = self.array(parameter.name)
        yield np.ascontiguousarray(array.T if transpose else array).reshape(-1).view(np.uint8).data

    def stored(self, name: str) -> NDArray:
        """As `Checkpoint.stored`, once the fault has changed it."""
        return self._weights.replaced[name] if name in self._weights.replaced else self._original.stored(name)

    def blocks(self, name: str, axis: int = 0) -> Iterator[NDArray[np.float32]]:
        """As `Checkpoint.blocks`."""
        return map(widen, cut(self.stored(name), axis))

    def release(self, name: str) -> None:
        """As `Checkpoint.release`."""
        if name not in self._weights.replaced:
            self._original.release(name)

    def digest(self) -> dict[str, str]:
        """As `Checkpoint.digest`: the original's."""
        return self._original.digest()

    def tokenizer_files(self) -> dict[str, str | bytes]:
        """As `Checkpoint.tokenizer_files`: the original's."""
        return self._original.tokenizer_files()

    def published_config(self) -> dict[str, object]:
        """As `Checkpoint.published_config`."""
        return {**self._original.published_config(), **self._changed}
