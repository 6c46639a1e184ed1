"""Reading one picture file of a user."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def read_picture(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a picture file as floats in [0, 1], [height, width, channels].

    Colours are turned into grey, or grey into colours, as the shape asks.

    Raises:
        OSError: for a file that is missing or no picture.
        ValueError: for a picture of another size.
    """
    from PIL import Image

    with Image.open(path) as picture:
        height, width, channels = shape
        if picture.size != (width, height):
            raise ValueError(
                f"{path} is {picture.width} x {picture.height}; it must be "
                f"{width} x {height} pixels."
            )
        pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(shape).astype(np.float32) / 255
