"""An ONNX artifact's graphs for a browser: the same numbers, under the file names that a browser's loaders expect.

An int8 graph must give a row the same bits in every batch. ONNX Runtime's softmax for WebAssembly adds four sums side
by side, and the rest into the first sum. So the order of a row's terms depends on how many terms follow: 1e-7, which
changes int8 roundings, and changes logits by 0.2. So softmax is written out, and its sum is a column of the next matrix
product, which adds in the order of positions.
"""

import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

_ONE, _PADS, _BEGIN, _END, _LAST = "web.one", "web.pads", "web.begin", "web.end", "web.last"
# Pads: one more at the end of the last of four axes. The last element and the last axis are both −1.
_INTEGERS = {_PADS: [0] * 7 + [1], _BEGIN: [0], _END: [2**63 - 1], _LAST: [-1]}


def adapt_graph(graph: bytes, precision: str, weights: str | None = None) -> bytes:
    """The graph with its weights in the file of that name (as it is if None) and, for int8, without Softmax.

    Equal calls give equal bytes. Raises RuntimeError for a graph whose attention is not as Yizhi writes it.
    """
    model = onnx.load_from_string(graph)
    if weights:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = weights
    if precision == "int8":
        _write_out_softmax(model.graph)
    return model.SerializeToString(deterministic=True)


def _write_out_softmax(graph: GraphProto) -> None:
    """softmax(scores) · V = (e · [V 1])[…, :d] / (e · [V 1])[…, d], with e = exp(scores − their largest)."""
    softmaxes = {node.output[0]: node for node in graph.node if node.op_type == "Softmax"}
    products = {node.input[0]: node for node in graph.node if node.input and node.input[0] in softmaxes}
    if softmaxes.keys() != products.keys():
        raise RuntimeError("expected each Softmax of the graph to go into one matrix product")
    if not softmaxes:  # the graph of integer sums
        return
    nodes = []
    for node in graph.node:
        if node.output[0] in softmaxes:
            continue
        if (softmax := softmaxes.get(node.input[0] if node.input else "")) is None:
            nodes.append(node)
            continue
        nodes += _attend(softmax, node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(helper.make_tensor(_ONE, TensorProto.FLOAT, [], [1.0]))
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values) for name, values in _INTEGERS.items()
    )


def _attend(softmax: NodeProto, product: NodeProto) -> list[NodeProto]:
    """The nodes that replace both, named after the softmax. The product's result keeps its name."""
    scores, values, place = softmax.input[0], product.input[1], softmax.name
    nodes = []

    def add(operator: str, *inputs: str, part: str = "", result: str = "") -> str:
        name = f"{place}/{part}{operator}"
        nodes.append(helper.make_node(operator, inputs, [result or name], name=name))
        return name

    powers = add("Exp", add("Sub", scores, add("ReduceMax", scores, _LAST)))
    both = add("MatMul", powers, add("Pad", values, _PADS, _ONE))
    context = add("Slice", both, _BEGIN, _LAST, _LAST, part="context/")
    sums = add("Slice", both, _LAST, _END, _LAST, part="sums/")
    add("Div", context, sums, result=product.output[0])
    return nodes
