"""The arrays of an image beside a text, checked: what describes each region, where the regions are, which are real."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yizhi.model.image_config import BOX
from yizhi.model.spec import FLOAT_INPUTS

_AXES: Mapping[str, tuple[str | int, ...]] = {
    "image_features": ("batch", "regions", "features"),
    "image_boxes": ("batch", "regions", BOX),
    "image_mask": ("batch", "regions"),
}

# A detector's box may reach over the image's edge by rounding.
_SLACK = 0.01
_NAMED = 5


def read_image(given: Mapping[str, ArrayLike | None], batch: int, faults: list[str]) -> dict[str, Any]:
    """The arrays of `Inputs` by name, float32 and int64; empty without any region, or with faults added.

    given: arrays under these names, or None. batch: rows of the text.
    """
    arrays = {name: np.asarray(array) for name, array in given.items() if array is not None}
    if not arrays:
        return {}
    before = len(faults)
    faults += [f"{name}: missing, with {' and '.join(arrays)}" for name in FLOAT_INPUTS if name not in arrays]
    regions = next((array.shape[1] for array in arrays.values() if array.ndim > 1), 0)
    for name, array in arrays.items():
        found = _find_wrong_values(name, array), _find_wrong_shape(_AXES[name], array.shape, batch, regions)
        faults += [f"{name}: {fault}" for fault in found if fault]
    if len(faults) > before or not regions:
        return {}
    arrays.setdefault("image_mask", np.ones((batch, regions), np.int64))
    faults += _find_misplaced(arrays["image_boxes"], arrays["image_mask"] == 1)
    if len(faults) > before:
        return {}
    types = {"image_mask": np.int64}
    return {name: np.array(array, types.get(name, np.float32), order="C") for name, array in arrays.items()}  # copies


def _find_misplaced(boxes: NDArray[Any], real: NDArray[np.bool_]) -> Iterator[str]:
    """Boxes that are no shares of an image, such as pixels; images whose region 0, of which the pooled vector is made,
    is padding. real: bool [B, R].
    """
    outside = np.argwhere(((boxes < -_SLACK) | (boxes > 1 + _SLACK)).any(axis=-1) & real)
    if len(outside):
        row, region = outside[0]
        found = ", ".join(f"{number:g}" for number in boxes[row, region])
        more = f", and {len(outside) - 1} more regions" if len(outside) > 1 else ""
        yield (
            f"image_boxes: expected shares of the image's width, height and area, 0 … 1; found {found} at row {row}, "
            f"region {region}{more}"
        )
    headless = np.flatnonzero(real.any(axis=1) & ~real[:, 0])
    if len(headless):
        yield (
            "image_mask: expected a region before padding, because the image's pooled vector is made of region 0; "
            f"found padding first in rows {', '.join(map(str, headless[:_NAMED].tolist()))}"
            + (f" and {len(headless) - _NAMED} more" if len(headless) > _NAMED else "")
        )


def _find_wrong_values(name: str, array: NDArray[Any]) -> str | None:
    if name == "image_mask":
        if array.dtype.kind not in "iub":
            return f"expected integers; found {array.dtype}"
        wrong = array[(array != 0) & (array != 1)]
        return f"expected 0 or 1; found {wrong[0]}" if wrong.size else None
    if array.dtype.kind not in "fiu":
        return f"expected numbers; found {array.dtype}"
    with np.errstate(over="ignore"):
        bad = int((~np.isfinite(array.astype(np.float32))).sum())
    return f"{bad} of {array.size} values are NaN or Inf in float32" if bad else None


def _find_wrong_shape(axes: tuple[str | int, ...], shape: tuple[int, ...], batch: int, regions: int) -> str | None:
    if len(shape) != len(axes) or (axes[-1] == BOX and shape[-1] != BOX):
        return f"expected [{', '.join(map(str, axes))}]; found {list(shape)}"
    if shape[0] != batch:
        return f"expected {batch} rows, as many as input_ids has; found {shape[0]}"
    if shape[1] != regions:
        return f"expected {regions} regions, as image_features has; found {shape[1]}"
    return None
