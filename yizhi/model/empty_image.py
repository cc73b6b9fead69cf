"""The image of a text alone. Apart from `image_config`, because the command line says its version without NumPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.model.image_config import BOX, ImageConfig


def no_image(image: ImageConfig, batch: int) -> dict[str, NDArray[Any]]:
    """The inputs of a batch without an image: one masked region of zeros in each row."""
    return {
        "image_features": np.zeros((batch, 1, image.features), np.float32),
        "image_boxes": np.zeros((batch, 1, BOX), np.float32),
        "image_mask": np.zeros((batch, 1), np.int64),
    }
