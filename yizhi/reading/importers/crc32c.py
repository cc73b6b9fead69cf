"""CRC32C, as TensorFlow's checkpoints carry it for every block of the index and for every tensor."""

import numpy as np

from yizhi.errors import InputError


def crc32c(data: bytes | memoryview) -> int:
    """The Castagnoli CRC (RFC 3720, B.4) of these bytes. Raises InputError where google-crc32c is not installed."""
    try:
        import google_crc32c
    except ImportError:
        raise InputError("TensorFlow checkpoint", "needs google-crc32c: pip install 'yizhi[import]'") from None
    # As an array, since the C function takes no memoryview.
    return google_crc32c.value(np.frombuffer(data, np.uint8)) if len(data) else 0


def masked(crc: int) -> int:
    """The form in which a CRC is stored: rotated right by 15 bits, plus a constant.

    From LevelDB's util/crc32c.h: a CRC over bytes that hold CRCs of themselves would be of little use.
    """
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def unmasked(stored: int) -> int:
    """The CRC behind its stored form."""
    rotated = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF
