"""Which operators a SavedModel runs, read without TensorFlow and before it is loaded."""

from collections.abc import Iterator
from pathlib import Path

from yizhi.errors import InputError
from yizhi.storage.protobuf import Fields, fields_of, message_of

# tensorflow/core/protobuf/saved_model.proto, meta_graph.proto; framework/graph.proto, function.proto, node_def.proto,
# attr_value.proto.
_META_GRAPHS, _GRAPH, _NODES, _LIBRARY, _FUNCTIONS = 2, 2, 1, 2, 1
_SIGNATURE, _FUNCTION_NODES, _OPERATOR, _ATTRIBUTES = 1, 3, 2, 5
_VALUE, _FUNCTION, _NAME = 2, 10, 1

# What the converter's graphs are made of (converters/forwards/tensorflow.py), whatever the family and the head.
OPERATORS = frozenset(
    (
        *("Abs", "AddV2", "ArgMax", "AssignVariableOp", "BatchMatMulV2", "BiasAdd", "Cast", "ConcatV2", "Const"),
        *("Cos", "Cumsum", "DisableCopyOnRead", "Einsum", "Equal", "Erf", "ExpandDims", "GatherNd", "GatherV2"),
        *("Greater", "Identity", "Log1p", "MatMul", "Max", "Maximum", "Mean", "Minimum", "Mul", "Neg", "NoOp"),
        *("NotEqual", "Pack", "Placeholder", "Pow", "Range", "ReadVariableOp", "RealDiv", "Relu", "Reshape"),
        *("ResourceGather", "Rsqrt", "Select", "SelectV2", "Shape", "Sigmoid", "Sin", "Softmax", "Split", "Sqrt"),
        *("Square", "Squeeze", "StatefulPartitionedCall", "StridedSlice", "Sub", "Sum", "Tanh", "Transpose"),
        *("Unpack", "VarHandleOp"),
    )
)
# What reads and writes files: in the two functions that TensorFlow adds for the variables, which no other calls.
FILES = frozenset(
    ("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename", "StaticRegexFullMatch", "StringJoin"),
)
_SAVERS = ("__inference__traced_save_", "__inference__traced_restore_")


def check_operators(path: Path) -> None:
    """Raise InputError for operators that no export of Yizhi's has, and name each: they could read files."""
    try:
        faults = list(_find_strange(fields_of(path.read_bytes())))
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, UnicodeDecodeError, KeyError) as error:
        raise InputError(path, f"is no SavedModel, or is damaged: {error}") from None
    if faults:
        raise InputError(path, [f"{fault}; not loaded" for fault in dict.fromkeys(faults)])


def _find_strange(model: Fields) -> Iterator[str]:
    graphs = [graph for meta_graph in _parts(model, _META_GRAPHS) for graph in _parts(meta_graph, _GRAPH)]
    if not graphs:
        raise ValueError("it has no graph")
    for graph in graphs:
        yield from _strange_nodes("the graph", graph.get(_NODES, []), may_call_savers=True)
        for library in _parts(graph, _LIBRARY):
            for function in _parts(library, _FUNCTIONS):
                name = _text(fields_of(message_of(function[_SIGNATURE][-1])), _NAME)
                yield from _strange_nodes(name, function.get(_FUNCTION_NODES, []))


def _strange_nodes(where: str, nodes: list[int | bytes], may_call_savers: bool = False) -> Iterator[str]:
    allowed = OPERATORS | FILES if where.startswith(_SAVERS) else OPERATORS
    for node in (fields_of(message_of(value)) for value in nodes):
        operator = _text(node, _OPERATOR)
        if operator not in allowed:
            yield f"{where}: {operator}: an operator that no export of Yizhi's has there"
        for attribute in _parts(node, _ATTRIBUTES):
            for value in _parts(attribute, _VALUE):
                called = [_text(function, _NAME) for function in _parts(value, _FUNCTION)]
                if not may_call_savers and any(name.startswith(_SAVERS) for name in called):
                    yield f"{where}: calls {called[0]}, which reads or writes files"


def _text(fields: Fields, number: int) -> str:
    return message_of(fields.get(number, [b""])[-1]).decode()


def _parts(fields: Fields, number: int) -> Iterator[Fields]:
    return (fields_of(message_of(value)) for value in fields.get(number, ()))
