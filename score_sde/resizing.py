"""Resizing as a product with a matrix: [size, source], for each of two axes.

Programs that compute the same metric resize differently, which moves FID more than
models differ. `evaluation.resizing` names the ways; here are the matrices, and
`resized`, which applies one to both axes of images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from score_sde.types import choices_text

Kernel = Callable[[np.ndarray], np.ndarray]


def triangle(x: np.ndarray) -> np.ndarray:
    """The kernel of bilinear interpolation, of support 1."""
    return np.maximum(0, 1 - np.abs(x))


def cubic(a: float) -> Kernel:
    """The kernel of bicubic interpolation, of support 2 (Keys 1981).

    Args:
        a: its slope at 1: -0.75 in PyTorch, -0.5 in Pillow and antialiased PyTorch.
    """

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        inner = ((a + 2) * x - (a + 3)) * x * x + 1
        outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))

    return kernel


def corner_matrix(source: int, size: int) -> np.ndarray:
    """Bilinear as in TensorFlow 1: output i is at i * source / size, no centres."""
    return _at(np.arange(size) * (source / size), source, triangle, 1)


def centre_matrix(
    source: int, size: int, kernel: Kernel, support: int, *, scale: float | None = None
) -> np.ndarray:
    """Interpolation between centres of pixels, without antialiasing, borders repeated.

    Args:
        source: how many pixels there are.
        size: how many there shall be.
        kernel: of the interpolation.
        support: of the kernel, in pixels of the source.
        scale: pixels there per pixel here; None for size / source.
    """
    scale = size / source if scale is None else scale
    return _at((np.arange(size) + 0.5) / scale - 0.5, source, kernel, support)


def antialias_matrix(
    source: int, size: int, kernel: Kernel, support: int
) -> np.ndarray:
    """Interpolation whose kernel widens where the picture shrinks, borders cut off."""
    step = source / size
    wide = max(step, 1.0)
    centre = (np.arange(size) + 0.5) * step
    # Pillow takes whole pixels, by the rounded ends of the support.
    low = np.maximum(0, np.floor(centre - support * wide + 0.5))
    high = np.minimum(source, np.floor(centre + support * wide + 0.5))
    pixels = np.arange(source)[None]
    weights = kernel((pixels + 0.5 - centre[:, None]) / wide)
    inside = (pixels >= low[:, None]) & (pixels < high[:, None])
    weights = np.where(inside, weights, 0.0)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _at(places: np.ndarray, source: int, kernel: Kernel, support: int) -> np.ndarray:
    """Weights of pixels at places, those beyond the border given to the border."""
    first = np.floor(places).astype(int)
    matrix = np.zeros((len(places), source))
    for offset in range(1 - support, support + 1):
        weight = kernel(places - (first + offset))
        column = np.clip(first + offset, 0, source - 1)
        np.add.at(matrix, (np.arange(len(places)), column), weight)
    return matrix


def _nearest_matrix(source: int, size: int) -> np.ndarray:
    """Each pixel is that of the source in which its centre lies."""
    places = np.floor((np.arange(size) + 0.5) * source / size).astype(int)
    return np.eye(source)[np.minimum(places, source - 1)]


def _box(x: np.ndarray) -> np.ndarray:
    """The kernel of means over blocks, of support a half."""
    return np.where(np.abs(x) < 0.5, 1.0, 0.0)


RESIZES: dict[str, Callable[[int, int], np.ndarray]] = {
    "mean": lambda source, size: antialias_matrix(source, size, _box, 1),
    "nearest": _nearest_matrix,
    "bilinear": lambda source, size: antialias_matrix(source, size, triangle, 1),
    "bicubic": lambda source, size: antialias_matrix(source, size, cubic(-0.5), 2),
}
"""Name -> (pixels there are, pixels there shall be) -> the matrix of one axis.

`mean` takes blocks as they are: their means downwards, copies upwards, by whole
factors. The kernels of `bilinear` and `bicubic` widen where a picture shrinks, as those
of Pillow do (antialiasing). Upwards, `bilinear` is PyTorch's without antialiasing too.
"""


@cache
def resize_matrix(how: str, source: int, size: int) -> np.ndarray:
    """The matrix of one axis, by the name of the way in `RESIZES`.

    Raises: ValueError for an unknown name.
    """
    if how not in RESIZES:
        raise ValueError(f"resize is {how!r}{choices_text(how, RESIZES)}.")
    return RESIZES[how](source, size)


def resized(x: Any, sides: tuple[int, int], how: str) -> Any:
    """Images [batch, height, width, channels] of other sides, in NumPy or JAX.

    Args:
        x: floats.
        sides: height and width that they shall have.
        how: a name in `RESIZES`.

    Raises: ValueError for an unknown name.
    """
    xp, (height, width) = x.__array_namespace__(), x.shape[1:3]
    rows, columns = (
        xp.asarray(resize_matrix(how, source, size), dtype=x.dtype)
        for source, size in zip((height, width), sides, strict=True)
    )
    # As products of matrices: the sums over rows first, then those over columns.
    precision = {} if xp is np else {"precision": "highest"}
    x = xp.moveaxis(xp.tensordot(rows, x, axes=((1,), (1,)), **precision), 0, 1)
    return xp.moveaxis(xp.tensordot(columns, x, axes=((1,), (2,)), **precision), 0, 2)
