"""Whether a constant that says it is a table of rotary positions is one."""

from collections.abc import Iterator

import numpy as np

from yizhi.model.rotary import make_table
from yizhi.reading.stored_tensors import TensorPlace

# Another processor may have rounded the last bit of a number up to 1 the other way.
_LAST_BIT = 2.0**-23


def find_wrong_table(place: TensorPlace, name: str) -> Iterator[str]:
    """The fault, if it is none: graphs may hold no numbers that are nobody's, and these follow from their name."""
    if place.dtype == "F32" and len(place.shape) > 1:
        found = place.array().reshape(place.shape[0], -1)
        if found.size and np.abs(found - make_table(name, *found.shape)).max() <= _LAST_BIT:
            return
    yield f"{place.name}: holds other numbers than the rotary positions that it is named after"
