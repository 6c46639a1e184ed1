"""Ways of programs to bring pictures to the size of a feature network, by name.

Each way gives other features: results are comparable only where it is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Resize = Callable[[np.ndarray, int], np.ndarray]
"""uint8 images [n, height, width, channels] to float32 squares, still in [0, 255]."""


def resize_tf1(images: np.ndarray, size: int) -> np.ndarray:
    """Bilinear as in TensorFlow 1, the way of the original FID: no pixel centres."""
    from score_sde import resizing

    return _by_matrices(images, size, resizing.corner_matrix)


def resize_pytorch(images: np.ndarray, size: int) -> np.ndarray:
    """Bilinear between centres of pixels, without antialiasing (pytorch-fid)."""
    from score_sde.resizing import centre_matrix, triangle

    return _by_matrices(images, size, lambda a, b: centre_matrix(a, b, triangle, 1))


def resize_clean(images: np.ndarray, size: int) -> np.ndarray:
    """Bicubic with antialiasing, clipped but not rounded (clean-fid)."""
    from score_sde.resizing import antialias_matrix, cubic

    kernel = cubic(-0.5)
    out = _by_matrices(images, size, lambda a, b: antialias_matrix(a, b, kernel, 2))
    return np.clip(out, 0, 255)


def resize_pillow(images: np.ndarray, size: int) -> np.ndarray:
    """Pillow's bicubic of uint8 images, rounded (FD-DINOv2 as published)."""
    from PIL import Image

    how = Image.Resampling.BICUBIC
    pictures = [Image.fromarray(image).resize((size, size), how) for image in images]
    return np.stack([np.asarray(p) for p in pictures]).astype(np.float32)


def resize_not(images: np.ndarray, size: int) -> np.ndarray:
    """The images as they are, which must have the size already.

    Raises: ValueError.
    """
    if images.shape[1:3] != (size, size):
        raise ValueError(
            f"images have sides {images.shape[1:3]}; with resize='none' they must have "
            f"({size}, {size})."
        )
    return images.astype(np.float32)


RESIZES: dict[str, Resize] = {
    "tf1": resize_tf1,
    "pytorch-fid": resize_pytorch,
    "clean": resize_clean,
    "pillow": resize_pillow,
    "none": resize_not,
}


def _by_matrices(
    images: np.ndarray, size: int, matrix: Callable[[int, int], np.ndarray]
) -> np.ndarray:
    """The product with a matrix for each axis, in float64."""
    number, height, width, channels = images.shape
    flat = images.reshape(number, height, width * channels).astype(np.float64)
    rows = matrix(height, size) @ flat
    rows = rows.reshape(number * size, width, channels)
    out = matrix(width, size) @ rows
    return np.asarray(out.reshape(number, size, size, channels), np.float32)
