"""The files of an ONNX artifact: a graph per signature over one file of weights. Needs no onnx."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

WEIGHT_FILE = "model.onnx.data"
OLDEST_RUNTIME = (1, 17)  # the first ONNX Runtime that loads the graphs: their operators are opset 20's

# How an int8 graph multiplies. Every processor adds products of two unsigned bytes exactly. Unsigned by signed
# is what VNNI is for, and what saturates without it; so the plain names are those of the first.
U8U8, U8S8 = "u8u8", "u8s8"


# What the ONNX tools call the keys and values that go into a step, and those that come out.
PAST, PRESENT = "past_key_values", "present"


def cache_names(kind: str, layers: int) -> Sequence[str]:
    """Keys and values of each layer in turn, as PAST or as PRESENT."""
    return [f"{kind}.{number}.{part}" for number in range(layers) for part in ("key", "value")]


def step_feeds(arrays: Sequence[T]) -> dict[str, T]:
    """Keys and values of each layer in turn, by the names of a step's inputs."""
    return dict(zip(cache_names(PAST, len(arrays) // 2), arrays, strict=True))


def step_outputs(layers: int) -> Sequence[str]:
    """All outputs of a step, in order."""
    return ["logits", *cache_names(PRESENT, layers)]


def graph_file(signature: str, products: str = U8U8) -> str:
    """The file that computes this group of outputs. `model.onnx` is what optimum looks for."""
    name = "model" if signature == "serving_default" else signature
    return f"{name}_{U8S8}.onnx" if products == U8S8 else f"{name}.onnx"
