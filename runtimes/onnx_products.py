"""Tests whether ONNX Runtime adds products of unsigned and signed bytes exactly on this processor."""

import functools

import numpy as np
import onnxruntime

# The model y = MatMulInteger(a, b) of uint8 a [m, k], int8 b [k, n] and int32 y, as onnx writes it: the machine that
# only runs artifacts has no onnx.
PRODUCT = bytes.fromhex(
    "08093a620a180a01610a0162120179220d4d61744d756c496e74656765721201675a150a016112100a0e0802120a0a0312016d0a031201"
    "6b5a150a016212100a0e0803120a0a0312016b0a0312016e62150a017912100a0e0806120a0a0312016d0a0312016e42040a001014"
)
_ROWS = (1, 2, 5, 16)  # one row has a kernel of its own
_INPUTS, _OUTPUTS = 256, 64


@functools.cache
def adds_signed_exactly() -> bool:
    """Whether products of the largest activations and the largest weights have the exact sum.

    Without VNNI, x86 adds pairs of such products in 16 bits, which saturate. The test takes about a millisecond.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(PRODUCT, options, providers=["CPUExecutionProvider"])
    weights = np.full((_INPUTS, _OUTPUTS), 127, np.int8)
    weights[:, ::2] = -127
    for rows in _ROWS:
        values = np.full((rows, _INPUTS), 255, np.uint8)
        (found,) = session.run(None, {"a": values, "b": weights})
        if (found != values.astype(np.int32) @ weights.astype(np.int32)).any():
            return False
    return True
