"""Parameter kind -> each framework's leaf name and orientation.

PyTorch, TensorFlow and ONNX keep the checkpoint's names and its [outputs, inputs] kernels: their
matrix products take a transposed operand at no cost, so the bytes are copied as they are. Flax has
its own leaf names and stores kernels as [inputs, outputs].
"""

from converters.spec import EMBEDDING, KERNEL, NORM_OFFSET, NORM_SCALE, VECTOR_BIAS, Parameter

FLAX_LEAVES = {
    EMBEDDING: "embedding",
    KERNEL: "kernel",
    VECTOR_BIAS: "bias",
    NORM_SCALE: "scale",
    NORM_OFFSET: "bias",
}


def flax_path(parameter: Parameter) -> tuple[str, ...]:
    """Path in the tree that users of `FlaxBertForMaskedLM` know.

    `bert.encoder.layer.0.output.dense.weight` -> (bert, encoder, layer, 0, output, dense, kernel)
    """
    *modules, _ = parameter.name.split(".")
    return (*modules, FLAX_LEAVES[parameter.kind])


def flax_transposes(parameter: Parameter) -> bool:
    """Whether Flax stores this parameter transposed."""
    return parameter.kind == KERNEL
