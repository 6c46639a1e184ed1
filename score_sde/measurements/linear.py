"""Linear measurements whose singular values are known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from score_sde.arrays import matmul
from score_sde.fields import checks_rules, pytree, static
from score_sde.measurements.measurement import Measurement, measured
from score_sde.rules import Positive, at_least
from score_sde.types import Array

Gain = Callable[[Array], Array]
"""Squared singular values -> factors."""


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

    def filter(self, y: Array, gain: Gain) -> Array:
        return y * gain(self._fitted(y))

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

    def filter(self, y: Array, gain: Gain) -> Array:
        return y * gain(jnp.full((1,) * y.ndim, 1 / self.factor**2, y.dtype))

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

    def filter(self, y: Array, gain: Gain) -> Array:
        return y * gain(jnp.full((1,) * y.ndim, 1 / self.channels, y.dtype))

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

    def filter(self, y: Array, gain: Gain) -> Array:
        def by_wave(transfer: Array) -> Array:
            power = jnp.abs(transfer) ** 2
            return gain(jnp.where(measured(power), power, 0.0))

        return self._filtered(y, by_wave)

    def project(self, y: Array) -> Array:
        return self._filtered(y, lambda gain: measured(jnp.abs(gain) ** 2))

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
        return matmul(x, jnp.asarray(self.matrix, x.dtype).T)

    def transpose(self, y: Array) -> Array:
        return matmul(y, jnp.asarray(self.matrix, y.dtype))

    def filter(self, y: Array, gain: Gain) -> Array:
        gram, vectors = self._axes(y.dtype)
        return matmul(matmul(y, vectors) * gain(gram[None]), vectors.T)

    def project(self, y: Array) -> Array:
        gram, vectors = self._axes(y.dtype)
        return matmul(matmul(y, vectors) * (gram > 0)[None].astype(y.dtype), vectors.T)

    def _axes(self, dtype: Any) -> tuple[Array, Array]:
        """Eigenvalues, those that count, and eigenvectors of A A'."""
        matrix = jnp.asarray(self.matrix, dtype)
        gram, vectors = jnp.linalg.eigh(matmul(matrix, matrix.T))
        return jnp.where(measured(gram), gram, 0.0), vectors
