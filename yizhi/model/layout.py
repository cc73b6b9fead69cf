"""Parameter kind -> each framework's leaf name and orientation.

PyTorch, ONNX and LiteRT keep the checkpoint's names and its [outputs, inputs] kernels: their matrix products
take a transposed operand at no cost, so the bytes are copied as they are. Flax and TensorFlow store
kernels as [inputs, outputs]: Flax's users expect it, and TensorFlow multiplies a few rows by a
transposed kernel at half the speed. An untied decoder is such a kernel; a tied one is the embedding
table, which stays [rows, size] and has no second name.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from yizhi.model.spec import EMBEDDING, KERNEL, NORM_OFFSET, NORM_SCALE, SCALING, VECTOR_BIAS, Parameter

# The weight file's name in every Flax folder.
FLAX_WEIGHTS = "flax_model.msgpack"
OPENVINO_WEIGHTS = "openvino_model.bin"  # beside a graph of the same name, as OpenVINO and optimum-intel look for it
# From flax/serialization.py: the msgpack extension of an array, and the mark of an array kept in flat pieces.
FLAX_ARRAY = 1
FLAX_CHUNKED = "__msgpack_chunked_array__"
# NumPy's names of safetensors' types of weights.
FLAX_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# A LiteRT artifact's model, and how the names of its tensors begin that are no parameters.
LITERT_MODEL = "model.tflite"
LITERT_CONSTANT = "constant/"

FLAX_LEAVES = {
    EMBEDDING: "embedding",
    KERNEL: "kernel",
    VECTOR_BIAS: "bias",
    NORM_SCALE: "scale",
    NORM_OFFSET: "bias",
    SCALING: "scaling",
}


def flax_path(parameter: Parameter) -> tuple[str, ...]:
    """Path in the tree that users of `FlaxBertForMaskedLM` know.

    `bert.encoder.layer.0.output.dense.weight` -> (bert, encoder, layer, 0, output, dense, kernel)
    """
    *modules, _ = parameter.name.split(".")
    return (*modules, FLAX_LEAVES[parameter.kind])


def transposes(parameter: Parameter) -> bool:
    """Whether Flax and TensorFlow store this parameter transposed."""
    return parameter.kind == KERNEL


def tensorflow_name(parameter: Parameter) -> str:
    """The variable's path in a SavedModel: the canonical name, ending in `kernel` where it is stored transposed."""
    return f"{parameter.name.removesuffix('weight')}kernel" if transposes(parameter) else parameter.name


def flax_shape(parameter: Parameter) -> tuple[int, ...]:
    """Shape of this parameter in the tree."""
    return parameter.shape[::-1] if transposes(parameter) else parameter.shape


def flax_tree(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Nested dictionaries with a Parameter at each leaf, in the order given."""
    tree: dict[str, Any] = {}
    for parameter in parameters:
        *path, leaf = flax_path(parameter)
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = parameter
    return tree


def canonical_parameters(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a Flax tree under their canonical names."""
    found: dict[str, Any] = {}
    for name, branch in tree.items():
        if isinstance(branch, Mapping):
            found |= canonical_parameters(branch, f"{prefix}{name}.")
        else:
            found[prefix + (name if name in ("bias", "scaling") else "weight")] = branch
    return found
