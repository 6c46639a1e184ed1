"""Attributes of an image: numbers that it can be asked for.

Each is a function of the ink, (x + 1) / 2 as a mean over colours, so that those of a
sample can be compared with what was asked. In moments of the ink, with r down, c to the
right, and both as a share of the height:

    slant = -cov(r, c) / var(r)     how far the top leans right of the bottom
    width = std(c)

Arrays may be those of NumPy, before any device work, or of JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Batch = Any
"""An array [batch, ...] of NumPy or of JAX."""


def ink(x: Batch) -> Batch:
    """The mean, from 0 to 1: [batch, height, width, channels] -> [batch]."""
    return (x.mean((1, 2, 3)) + 1) / 2


def slant(x: Batch) -> Batch:
    """The tangent of the angle to the vertical; to the right it is positive."""
    rows, _, both = _second_moments(x)
    return -both / rows


def width(x: Batch) -> Batch:
    """Standard deviation of the ink across the columns, as a share of the height."""
    _, columns, _ = _second_moments(x)
    return columns**0.5


ATTRIBUTES: dict[str, Callable[[Batch], Batch]] = {
    "ink": ink,
    "slant": slant,
    "width": width,
}


def measured(names: Sequence[str], x: Batch) -> Batch:
    """The named attributes of images in [-1, 1]: [batch, names]."""
    columns = [ATTRIBUTES[name](x) for name in names]
    return x.__array_namespace__().stack(columns, axis=1)


def _second_moments(x: Batch) -> tuple[Batch, Batch, Batch]:
    """(var(r), var(c), cov(r, c)) of the ink."""
    height, width = x.shape[1:3]
    # So little that it decides for a black image alone, which has the spread of a grey.
    weight = (x.mean(3) + 1) / 2 + 1e-6
    weight = weight / weight.sum((1, 2), keepdims=True)
    r = (np.arange(height) / height).astype(x.dtype).reshape(1, -1, 1)
    c = (np.arange(width) / height).astype(x.dtype).reshape(1, 1, -1)
    r = r - (weight * r).sum((1, 2), keepdims=True)
    c = c - (weight * c).sum((1, 2), keepdims=True)
    rows, columns, both = (
        (weight * product).sum((1, 2)) for product in (r * r, c * c, r * c)
    )
    return rows, columns, both
