"""The files of an ONNX artifact: a graph per signature over one file of weights. Needs no onnx."""

WEIGHT_FILE = "model.onnx.data"
OLDEST_RUNTIME = (1, 17)  # the first ONNX Runtime that loads the graphs: their operators are opset 20's

# How an int8 graph multiplies. Every processor adds products of two unsigned bytes exactly. Unsigned by signed
# is what VNNI is for, and what saturates without it; so the plain names are those of the first.
U8U8, U8S8 = "u8u8", "u8s8"


def graph_file(signature: str, products: str = U8U8) -> str:
    """The file that computes this group of outputs. `model.onnx` is what optimum looks for."""
    name = "model" if signature == "serving_default" else signature
    return f"{name}_{U8S8}.onnx" if products == U8S8 else f"{name}.onnx"
