"""Linear measurements y = A x + s n of an example: what restoration starts from.

Each knows its transpose and solves (scale A A' + shift I) z = y in closed form, which
is all that the methods of `editing.py` need. y has the batch of x.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from score_sde.arrays import expand_like
from score_sde.fields import checks_rules, pytree, static
from score_sde.rules import Positive, at_least
from score_sde.types import Array, Scalar

NEGLIGIBLE = 1e-6
"""Directions that A shrinks by more than its square root count as not measured."""


@pytree
class Measurement:
    """A linear map of examples; subclasses give these three methods."""

    def __call__(self, x: Array) -> Array:
        """Measure: A x, [batch, ...]."""
        raise NotImplementedError

    def transpose(self, y: Array) -> Array:
        """Apply the transpose: A' y, shaped like x."""
        raise NotImplementedError

    def solve(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        """Solve (scale A A' + shift I) z = y; 0 where that has no inverse.

        Args:
            y: a measurement, [batch, ...].
            scale: a scalar or [batch], not negative.
            shift: a scalar or [batch], not negative.
        """
        raise NotImplementedError

    def pseudo_inverse(self, y: Array) -> Array:
        """Find the smallest x with A x = y."""
        return self.transpose(self.solve(y, 1.0, 0.0))

    def project(self, y: Array) -> Array:
        """Keep of y what A x can be: 0 under a mask, whatever y says there."""
        return self(self.pseudo_inverse(y))


@pytree
class Mask(Measurement):
    """Inpainting: known pixels are kept, and the others are 0.

    Args:
        mask: not 0 where a pixel is known, [*dims] or [batch, *dims]; an axis of
            length 1 stands for all.
    """

    mask: Array | np.ndarray

    def __call__(self, x: Array) -> Array:
        return x * self._fitted(x)

    def transpose(self, y: Array) -> Array:
        return y * self._fitted(y)

    def solve(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        return _divided(y, self._fitted(y), scale, shift)

    def project(self, y: Array) -> Array:
        return jnp.where(self._fitted(y) > 0, y, 0.0)

    def _fitted(self, x: Array) -> Array:
        mask = jnp.asarray(self.mask).astype(bool).astype(x.dtype)
        mask = mask[None] if mask.ndim == x.ndim - 1 else mask
        fits = mask.ndim == x.ndim and all(
            m in (1, d) for m, d in zip(mask.shape, x.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"a mask of shape {jnp.shape(self.mask)} does not fit data of shape "
                f"{x.shape}."
            )
        return mask


@pytree
class Downsample(Measurement):
    """Super-resolution: means over blocks of factor x factor pixels."""

    factor: Annotated[int, at_least(1)] = static(default=2)

    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        k = self.factor
        if height % k or width % k:
            raise ValueError(f"sides {height, width} are no multiples of factor {k}.")
        return x.reshape(batch, height // k, k, width // k, k, channels).mean((2, 4))

    def transpose(self, y: Array) -> Array:
        k = self.factor
        return y.repeat(k, axis=1).repeat(k, axis=2) / k**2

    def solve(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        gram = jnp.full((1,) * y.ndim, 1 / self.factor**2, y.dtype)
        return _divided(y, gram, scale, shift)

    def project(self, y: Array) -> Array:
        return y


@pytree
class Grey(Measurement):
    """Colourisation: the mean over channels, one channel.

    Up to its length the first vector of an orthonormal basis of colours, the one in
    which Song et al. 2021 (app. I.2) know the first coordinate.
    """

    channels: Annotated[int, at_least(1)] = static(default=3)

    def __call__(self, x: Array) -> Array:
        if x.shape[-1] != self.channels:
            raise ValueError(
                f"expected {self.channels} channels, got data of shape {x.shape}."
            )
        return x.mean(-1, keepdims=True)

    def transpose(self, y: Array) -> Array:
        return y.repeat(self.channels, axis=-1) / self.channels

    def solve(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        gram = jnp.full((1,) * y.ndim, 1 / self.channels, y.dtype)
        return _divided(y, gram, scale, shift)

    def project(self, y: Array) -> Array:
        return y


@pytree
class Blur(Measurement):
    """Deblurring: convolution of each channel, periodic at the edges.

    Args:
        kernel: [height, width], with its centre in the middle, at
            (height // 2, width // 2).
    """

    kernel: Array | np.ndarray

    def __call__(self, x: Array) -> Array:
        return self._filtered(x, lambda gain: gain)

    def transpose(self, y: Array) -> Array:
        return self._filtered(y, jnp.conj)

    def solve(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        def inverse(gain: Array) -> Array:
            power = jnp.abs(gain) ** 2
            power = jnp.where(_measured(power), power, 0.0)
            return _divided(jnp.ones_like(power), power, scale, shift, like=y)

        return self._filtered(y, inverse)

    def project(self, y: Array) -> Array:
        return self._filtered(y, lambda gain: _measured(jnp.abs(gain) ** 2))

    def _filtered(self, x: Array, gain: Any) -> Array:
        height, width = self.kernel.shape
        if height > x.shape[1] or width > x.shape[2]:
            raise ValueError(
                f"a kernel of shape {self.kernel.shape} is larger than images of shape "
                f"{x.shape[1:3]}."
            )
        rows, columns = x.shape[1] - height, x.shape[2] - width
        kernel = jnp.pad(jnp.asarray(self.kernel, x.dtype), ((0, rows), (0, columns)))
        kernel = jnp.roll(kernel, (-(height // 2), -(width // 2)), (0, 1))
        waves = jnp.fft.rfft2(x, axes=(1, 2))
        factor = gain(jnp.fft.rfft2(kernel)[None, :, :, None])
        out = jnp.fft.irfft2(
            waves * factor.astype(waves.dtype), s=x.shape[1:3], axes=(1, 2)
        )
        return out.astype(x.dtype)


@checks_rules
def gaussian_kernel(
    size: Annotated[int, at_least(1)], std: Annotated[float, Positive]
) -> np.ndarray:
    """Make a Gaussian kernel of size x size pixels, of sum one.

    Args:
        size: pixels to a side.
        std: standard deviation in pixels.

    Raises: ValueError for a size below 1 or a std that is not > 0.
    """
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / std) ** 2)
    kernel = line[:, None] * line[None]
    return np.asarray(kernel / kernel.sum())


@pytree
class Matrix(Measurement):
    """Any linear map of points, by its matrix [measured, dims]."""

    matrix: Array

    def __call__(self, x: Array) -> Array:
        return x @ jnp.asarray(self.matrix, x.dtype).T

    def transpose(self, y: Array) -> Array:
        return y @ jnp.asarray(self.matrix, y.dtype)

    def solve(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        matrix = jnp.asarray(self.matrix, y.dtype)
        gram, vectors = jnp.linalg.eigh(matrix @ matrix.T)
        gram = jnp.where(_measured(gram), gram, 0.0)
        return _divided(y @ vectors, gram[None], scale, shift) @ vectors.T

    def project(self, y: Array) -> Array:
        matrix = jnp.asarray(self.matrix, y.dtype)
        gram, vectors = jnp.linalg.eigh(matrix @ matrix.T)
        kept = vectors * _measured(gram)[None].astype(y.dtype)
        return y @ kept @ vectors.T


def _measured(gram: Array) -> Array:
    """Tell eigenvalues of A A' that count from those that are 0 but for rounding."""
    return gram > NEGLIGIBLE * gram.max()


def _divided(
    y: Array, gram: Array, scale: Scalar, shift: Scalar, like: Array | None = None
) -> Array:
    """Divide y by scale gram + shift; 0 where that is 0."""
    like = y if like is None else like
    scale, shift = (expand_like(a, like).astype(y.dtype) for a in (scale, shift))
    by = scale * gram + shift
    some = by > 0
    return jnp.where(some, y / jnp.where(some, by, 1.0), 0.0)
