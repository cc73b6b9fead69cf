"""Operators of a .tflite graph whose results' shapes follow from their inputs'."""

from ai_edge_litert import schema_py_generated as schema

from yizhi.converters.litert_graph import ANY, FLOAT, INT32, Graph, Value


def swap(g: Graph, scope: str, x: Value) -> Value:
    """[B, T, A, d] <-> [B, A, T, d]."""
    one, two = x.shape[1:3]
    return g.node(scope, "TRANSPOSE", [x, g.constant("swap", [0, 2, 1, 3])], (x.shape[0], two, one, x.shape[3]))


def gather(g: Graph, scope: str, x: Value, index: Value, axis: int, dtype: int = FLOAT) -> Value:
    """The part of x at a place, or at several, of one axis."""
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return g.node(scope, "GATHER", [x, index], shape, schema.GatherOptionsT(axis=axis), dtype=dtype)


def cut(g: Graph, scope: str, x: Value, start: int, size: int) -> Value:
    """A number of elements of the last axis."""
    others = len(x.shape) - 1
    begin, sizes = [0] * others + [start], [ANY] * others + [size]
    places = [g.constant(f"begin.{others}.{start}", begin), g.constant(f"sizes.{others}.{size}", sizes)]
    return g.node(scope, "SLICE", [x, *places], (*x.shape[:-1], size), schema.SliceOptionsT())


def stride(g: Graph, scope: str, x: Value, start: int, end: int, step: int) -> Value:
    """Elements of the last of four axes, from start to before end, in steps."""
    others = [0] * (len(x.shape) - 1)
    places = [
        g.constant(f"stride.{name}.{at}", [*fill, at])
        for name, at, fill in (("start", start, others), ("end", end, others), ("step", step, [1] * len(others)))
    ]
    whole = (1 << len(others)) - 1  # a bit for each axis that is taken whole
    options = schema.StridedSliceOptionsT(beginMask=whole, endMask=whole)
    return g.node(scope, "STRIDED_SLICE", [x, *places], (*x.shape[:-1], len(range(start, end, step))), options)


def expand(g: Graph, scope: str, x: Value, axis: int) -> Value:
    """x with one more axis of size 1."""
    place = axis % (len(x.shape) + 1)
    return g.node(
        scope, "EXPAND_DIMS", [x, g.constant(f"axis.{axis}", [axis])], (*x.shape[:place], 1, *x.shape[place:])
    )


def as_float(g: Graph, scope: str, x: Value) -> Value:
    """Integers as float32."""
    return g.node(scope, "CAST", [x], x.shape, schema.CastOptionsT(inDataType=INT32, outDataType=FLOAT))


def add(g: Graph, scope: str, x: Value, y: Value) -> Value:
    """x + y, in the shape of x, the larger."""
    return g.node(scope, "ADD", [x, y], x.shape)


def subtract(g: Graph, scope: str, x: Value, y: Value) -> Value:
    """x − y, in the shape of the larger."""
    return g.node(scope, "SUB", [x, y], max(x.shape, y.shape, key=len))


def multiply(g: Graph, scope: str, x: Value, y: Value) -> Value:
    """x · y, in the shape of x, the larger."""
    return g.node(scope, "MUL", [x, y], x.shape)
