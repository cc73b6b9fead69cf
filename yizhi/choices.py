"""The values of artifacts' settings, each list once, for the library and the command line.

This module imports nothing, so that a command's arguments can be declared without the command's imports.
"""

from typing import Literal, get_args

Device = Literal["cpu", "cuda"]
# How numbers are multiplied. strict: the artifact's own type, with no rounding of operands that a framework adds.
# tf32: float32 products of operands rounded to 10 bits of mantissa. bf16, fp16: weights and activations of 16 bits.
Math = Literal["strict", "tf32", "bf16", "fp16"]
# What an artifact's weights are stored as, where its target computes in float32. bf16: as in the checkpoint.
Precision = Literal["fp32", "bf16"]
# Of the vectors of a text's tokens; `none` gives them all.
TextPooling = Literal["mean", "cls", "max", "last", "none"]
# What retrieval compares: one vector of a text, weights of its tokens, a vector of each.
VectorKind = Literal["dense", "sparse", "multi_vector"]
# Of a word of many tokens: all of them hidden at once, or each alone.
Scoring = Literal["joint", "pseudo"]

DEVICES: tuple[str, ...] = get_args(Device)
# Where ONNX artifacts can be verified too: the WebAssembly of a browser, run by Node.
WASM = "wasm"
MATH: tuple[str, ...] = get_args(Math)
PRECISIONS: tuple[str, ...] = get_args(Precision)
TEXT_POOLINGS: tuple[str, ...] = get_args(TextPooling)
VECTOR_KINDS: tuple[str, ...] = get_args(VectorKind)
SCORINGS: tuple[str, ...] = get_args(Scoring)
