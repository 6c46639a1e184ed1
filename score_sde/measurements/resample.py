"""Downscaling by a kernel, whose singular values are those of one axis, multiplied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp

from score_sde.arrays import einsum, matmul
from score_sde.fields import pytree, static
from score_sde.measurements.measurement import Measurement, measured
from score_sde.resizing import RESIZES, resize_matrix, resized
from score_sde.rules import at_least, one_of
from score_sde.types import Array

SHRINKING = tuple(name for name in RESIZES if name != "nearest")
"""Ways in `resizing.RESIZES` that see every pixel of the larger picture."""


@pytree
class Resample(Measurement):
    """Super-resolution from pictures that were made smaller with antialiasing.

    Args:
        factor: by which both sides are divided.
        how: the kernel, a name in `SHRINKING`; Pillow's, see `resizing`.
    """

    factor: Annotated[int, at_least(1)] = static(default=2)
    how: Annotated[str, one_of(SHRINKING)] = static(default="bicubic")

    def __call__(self, x: Array) -> Array:
        height, width = x.shape[1:3]
        k = self.factor
        if height % k or width % k:
            raise ValueError(f"sides {height, width} are no multiples of factor {k}.")
        return resized(x, (height // k, width // k), self.how)

    def transpose(self, y: Array) -> Array:
        rows, columns = (self._matrix(size, y.dtype) for size in y.shape[1:3])
        return einsum("hr,bhwc,ws->brsc", rows, y, columns)

    def filter(self, y: Array, gain: Callable[[Array], Array]) -> Array:
        (rows, u), (columns, v) = (self._axis(size, y.dtype) for size in y.shape[1:3])
        waves = einsum("hr,bhwc,ws->brsc", u, y, v)
        factors = gain((rows[:, None] * columns[None])[None, :, :, None])
        return einsum("hr,brsc,ws->bhwc", u, waves * factors, v)

    def project(self, y: Array) -> Array:
        return self.filter(y, lambda gram: measured(gram).astype(y.dtype))

    def _matrix(self, size: int, dtype: Any) -> Array:
        """The matrix that makes one axis of this size, [size, factor size]."""
        return jnp.asarray(resize_matrix(self.how, size * self.factor, size), dtype)

    def _axis(self, size: int, dtype: Any) -> tuple[Array, Array]:
        """Eigenvalues and eigenvectors of M M', M the matrix of one axis."""
        matrix = self._matrix(size, dtype)
        gram, vectors = jnp.linalg.eigh(matmul(matrix, matrix.T))
        return jnp.maximum(gram, 0.0), vectors
