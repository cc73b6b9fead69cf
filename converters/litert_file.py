"""The bytes of a .tflite file: a flatbuffer whose large vectors are streamed behind it.

The flatbuffers library builds a file in memory, back to front. So it gets everything but the values of buffers,
whose vectors follow its bytes: an offset points forward, to any place in the file.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from yizhi.converters.litert_graph import Buffers, Graph, Operator, Signature, Value
from yizhi.converters.quantize import scale_of

# A cache line, which is more than the 16 bytes that the schema asks for.
_ALIGNMENT = 64
_COUNT = 4  # bytes before a vector's values, which say how many they are
# What a flatbuffer's own offsets reach: they are 32 bits, and signed to some readers. In a larger file, buffers say in
# 64 bits where their values are.
LARGEST_NEAR = (1 << 31) - 1
# In a vtable, the places of a Buffer's fields `data`, `offset` and `size`, and of a QuantizationParameters' `scale`.
_DATA_FIELD, _OFFSET_FIELD, _SIZE_FIELD, _SCALE_FIELD = 4, 6, 8, 8

Chunks = Callable[[str], Iterable[bytes | memoryview]]


def write_model(
    file: BinaryIO, buffers: Buffers, signatures: Mapping[str, Signature], chunks: Chunks
) -> dict[str, int]:
    """Write a model with these signatures, and a subgraph for each of their graphs.

    chunks: gives the bytes of a weight, in pieces. Returns the offset of each weight's values, and of an int8 weight's
    scales as NAME.scale.
    """
    table, starts = build_table(buffers, signatures)
    file.write(table)
    for start, (size, content) in zip(starts, _contents(buffers), strict=True):
        file.write(bytes(start - _COUNT - file.tell()))
        file.write(struct.pack("<I", size))
        for chunk in [content] if isinstance(content, bytes) else chunks(content):
            file.write(chunk)
    return dict(zip(buffers.weights, starts, strict=False)) | _find_scales(table)


def build_table(buffers: Buffers, signatures: Mapping[str, Signature]) -> tuple[bytes, list[int]]:
    """The beginning of the file, up to the buffers' values; and where those of each buffer but the first begin."""
    sizes = [size for size, _ in _contents(buffers)]
    table = bytearray(_pack(buffers, signatures, far=False))
    starts, end = _lay_out(len(table), sizes)
    far = end > LARGEST_NEAR
    if far:
        table = bytearray(_pack(buffers, signatures, far))
        starts, _ = _lay_out(len(table), sizes)
    model = schema.Model.GetRootAs(table)
    for number, (start, size) in enumerate(zip(starts, sizes, strict=True), 1):
        _point(table, model.Buffers(number), start, size, far)
    return bytes(table), starts


def _lay_out(position: int, sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where each buffer's values begin, and where the last one's end."""
    starts = []
    for size in sizes:
        starts.append(-(-(position + _COUNT) // _ALIGNMENT) * _ALIGNMENT)
        position = starts[-1] + size
    return starts, position


def _contents(buffers: Buffers) -> list[tuple[int, str | bytes]]:
    """Of each buffer but the first, how many bytes, and the weight's name or the constant's bytes."""
    weights: list[tuple[int, str | bytes]] = [(weight.nbytes, name) for name, weight in buffers.weights.items()]
    return weights + [(len(data), data) for data in buffers.constants]


def _point(table: bytearray, buffer: schema.Buffer, start: int, size: int, far: bool) -> None:
    """Make a buffer's values those that begin there."""

    def place(field: int) -> int:
        return int(buffer._tab.Pos + buffer._tab.Offset(field))

    if far:
        struct.pack_into("<Q", table, place(_OFFSET_FIELD), start)
        struct.pack_into("<Q", table, place(_SIZE_FIELD), size)
    else:
        struct.pack_into("<I", table, place(_DATA_FIELD), start - _COUNT - place(_DATA_FIELD))


def _find_scales(table: bytes) -> dict[str, int]:
    """Where the scales of int8 weights begin."""
    model, found = schema.Model.GetRootAs(table), {}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            if tensor.Quantization():
                vector = tensor.Quantization()._tab
                found[scale_of(tensor.Name().decode())] = vector.Vector(vector.Offset(_SCALE_FIELD))
    return found


def _pack(buffers: Buffers, signatures: Mapping[str, Signature], far: bool) -> bytes:
    """The file without what buffers hold: each but the first has an offset that leads nowhere."""
    names: dict[Graph, str] = {}  # each graph once, by the first signature that asks for it
    for name, signature in signatures.items():
        names.setdefault(signature.graph, name)
    used = sorted({(operator.name, operator.version) for graph in names for operator in graph.operators})
    codes = {pair: number for number, pair in enumerate(used)}
    model = schema.ModelT(
        version=3,
        description="yizhi",
        operatorCodes=[_operator_code(*pair) for pair in codes],
        subgraphs=[_subgraph(name, graph, codes) for graph, name in names.items()],
        signatureDefs=[
            _signature(name, list(names).index(signature.graph), signature) for name, signature in signatures.items()
        ],
        buffers=[schema.BufferT()] + [_Buffer(far)] * (len(buffers.weights) + len(buffers.constants)),
    )
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Buffer:
    """A Buffer's table, with room for what says where its values are: `data`, or far from here `offset` and `size`."""

    def __init__(self, far: bool) -> None:
        self._far = far

    def Pack(self, builder: flatbuffers.Builder) -> int:
        schema.BufferStart(builder)
        if self._far:
            schema.BufferAddOffset(builder, 1)
            schema.BufferAddSize(builder, 1)
        else:
            builder.PrependUint32(0)
            builder.Slot(0)
        return int(schema.BufferEnd(builder))


def _operator_code(name: str, version: int) -> schema.OperatorCodeT:
    code = getattr(schema.BuiltinOperator, name)
    return schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), version=version, builtinCode=code)


def _subgraph(name: str, graph: Graph, codes: Mapping[tuple[str, int], int]) -> schema.SubGraphT:
    return schema.SubGraphT(
        name=name,
        tensors=graph.tensors,
        inputs=[value.index for value in graph.inputs.values()],
        outputs=[value.index for value in graph.outputs.values()],
        operators=[_operator(operator, codes) for operator in graph.operators],
    )


def _operator(operator: Operator, codes: Mapping[tuple[str, int], int]) -> schema.OperatorT:
    options = operator.options
    kind = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T")) if options else 0
    return schema.OperatorT(
        opcodeIndex=codes[operator.name, operator.version],
        inputs=operator.inputs,
        outputs=[operator.result],
        builtinOptionsType=kind,
        builtinOptions=options,
    )


def _signature(name: str, number: int, signature: Signature) -> schema.SignatureDefT:
    def maps(values: Mapping[str, Value]) -> list[schema.TensorMapT]:
        return [schema.TensorMapT(name=name, tensorIndex=value.index) for name, value in values.items()]

    outputs = {name: signature.graph.outputs[name] for name in signature.outputs}
    return schema.SignatureDefT(
        signatureKey=name, subgraphIndex=number, inputs=maps(signature.graph.inputs), outputs=maps(outputs)
    )
