"""Compares a LiteRT artifact's model, operator by operator, with the model that this version of Yizhi writes."""

import mmap
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from yizhi.converters.litert_file import build_table
from yizhi.converters.litert_graph import FLOAT, INT8, Buffers, Graph, Weight
from yizhi.converters.litert_int8_graph import Int8Graph
from yizhi.converters.quantize import Outliers, outliers_of, scale_of
from yizhi.converters.to_litert import build_signatures
from yizhi.errors import show
from yizhi.model.layout import LITERT_MODEL
from yizhi.model.spec import EncoderSpec
from yizhi.reading.litert_tensors import read_litert
from yizhi.release.artifact import Artifact
from yizhi.storage.flatbuffer import Table

# Fields of the schema's tables.
_CODES, _SUBGRAPHS, _SIGNATURES = 1, 2, 7
_CODE, _VERSION = 3, 2
_TENSORS, _OPERATORS, _SUBGRAPH_NAME, _TENSOR_NAME = 0, 3, 4, 3
_OPCODE, _INPUTS, _OUTPUTS = 0, 1, 2
_KEY = 2


def compare_graphs(artifact: Artifact, spec: EncoderSpec) -> tuple[int, list[str]]:
    """The number of compared graphs, and their differences from graphs made again from spec and stored tensors.

    The tensors' numbers are trusted here: `yizhi.parity.weights` compares them. Raises InputError if the file cannot be
    read.
    """
    stored = {place.name: place for place in read_litert(artifact.folder)}
    said = artifact.description.get("quantization") or {}
    outliers = Outliers(said.get("outliers", {}), said.get("smoothed", ()))
    weights = {}
    for parameter in spec.parameters():
        name = parameter.name
        if outliers.in_float32(name):
            weights[outliers_of(name)] = Weight(FLOAT, (parameter.shape[0], len(outliers.of(name))))
        scales = stored.get(scale_of(name)) if said else None
        weights[name] = (
            Weight(INT8, parameter.shape, np.array(scales.array())) if scales else Weight(FLOAT, parameter.shape)
        )
    buffers = Buffers(weights)

    def new() -> Graph:
        return Int8Graph(buffers, outliers)

    signatures = build_signatures(new, spec)
    expected, starts = build_table(buffers, signatures)
    constants = list(zip(starts[len(weights) :], buffers.constants, strict=True))
    count = len({signature.graph for signature in signatures.values()})
    with (
        open(artifact.folder / LITERT_MODEL, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as found,
    ):
        if found[: len(expected)] != expected:
            where = _say_where(found, expected)
            return count, [f"{LITERT_MODEL}: is not the model that this version writes: {where}"]
        if any(found[start : start + len(values)] != values for start, values in constants):
            return count, [f"{LITERT_MODEL}: expected the constants that this version writes; found others"]
    return count, []


def _say_where(found: bytes | mmap.mmap, expected: bytes) -> str:
    """The first difference, as text."""
    try:
        for one, other in zip_longest(_describe(expected), _describe(found), fillvalue="none"):
            if one != other:
                return f"expected {show(one)}; found {show(other)}"
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        return f"it is damaged: {error}"
    return "an operator's options, or a tensor's type or shape"


def _describe(data: bytes | mmap.mmap) -> Iterator[str]:
    """Each signature, and each operator with its tensors. Raises ValueError or IndexError for other files."""
    model = Table.root(data, b"TFL3")
    codes = [f"{code.number(_CODE, 'i')} v{code.number(_VERSION, 'i', 1)}" for code in model.tables(_CODES)]
    for signature in model.tables(_SIGNATURES):
        yield f"signature {signature.text(_KEY)}"
    for subgraph in model.tables(_SUBGRAPHS):
        names = [tensor.text(_TENSOR_NAME) for tensor in subgraph.tables(_TENSORS)]
        names.append("nothing")  # what stands for an input that is left out: -1
        for operator in subgraph.tables(_OPERATORS):
            inputs, outputs = (
                ", ".join(names[number] for number in operator.numbers(field, "i")) for field in (_INPUTS, _OUTPUTS)
            )
            kind = codes[operator.number(_OPCODE, "I")]
            yield f"{subgraph.text(_SUBGRAPH_NAME)}: {outputs} = operator {kind} of {inputs}"
