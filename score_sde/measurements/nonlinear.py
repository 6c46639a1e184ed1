"""Measurements that are not linear: magnitudes of waves, and JPEG."""

from __future__ import annotations

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import einsum, matmul
from score_sde.fields import pytree, static
from score_sde.measurements.measurement import Measurement
from score_sde.rules import at_least, within
from score_sde.types import Array


@pytree
class NonLinear(Measurement):
    """A map that is not linear: of transposes it has that of its derivative alone."""

    is_linear: ClassVar[bool] = False
    has_spectrum: ClassVar[bool] = False
    has_inverse: ClassVar[bool] = False

    def pull(self, x: Array, y: Array) -> Array:
        return jax.vjp(self, x)[1](y)[0]

    def project(self, y: Array) -> Array:
        return y

    def pseudo_inverse(self, y: Array) -> Array:
        del y
        raise ValueError(
            f"{type(self).__name__} has no inverse, which this method needs."
        )


@pytree
class Magnitude(NonLinear):
    """Phase retrieval: the magnitudes of an image's waves (Fienup 1982).

    The image is padded by zeros to `oversample` times its sides, and the transform is
    orthonormal. Images that are turned by half a turn look the same, and those that
    have room to move.
    """

    oversample: Annotated[int, at_least(1)] = static(default=2)

    def __call__(self, x: Array) -> Array:
        sides = tuple(self.oversample * n for n in x.shape[1:3])
        waves = jnp.fft.fft2(x, s=sides, axes=(1, 2), norm="ortho")
        power = waves.real**2 + waves.imag**2
        # The root has no slope at 0.
        some = power > 0
        return jnp.where(some, jnp.sqrt(jnp.where(some, power, 1.0)), 0.0)


LUMINANCE = np.asarray(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]
"""Steps of the coefficients at quality 50 (ITU-T T.81, annex K.1)."""
TO_YCBCR = np.asarray(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
"""Brightness and colours of red, green and blue (JFIF)."""


def quantisation(quality: int, table: np.ndarray) -> np.ndarray:
    """Steps of the coefficients at a quality from 1 to 100, as libjpeg scales them."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((table * scale + 50) // 100, 1, 255)


@pytree
class JPEG(NonLinear):
    """The picture that a JPEG file of this quality gives back, without subsampling.

    Blocks of 8 x 8 pixels are transformed by cosines and rounded to steps; colours are
    brightness and two differences. Data of -1 to 1 are levels of 0 to 255. Rounding is
    differentiated as if it were not there. `nearest` moves each coefficient into the
    bin that it was rounded from.
    """

    quality: Annotated[int, within(1, 100)] = static(default=50)

    has_inverse: ClassVar[bool] = True

    def __call__(self, x: Array) -> Array:
        steps = self._steps(x)
        scaled = self._coefficients(x) / steps
        rounded = scaled + jax.lax.stop_gradient(jnp.round(scaled) - scaled)
        return self._picture(rounded * steps, x)

    def pseudo_inverse(self, y: Array) -> Array:
        """Return y itself, which is a picture."""
        return y

    def nearest(self, x: Array, y: Array) -> Array:
        """Move x to the nearest picture that this file can be of."""
        half = 0.5 * self._steps(x)
        given = self._coefficients(jnp.broadcast_to(y, x.shape).astype(x.dtype))
        inside = jnp.clip(self._coefficients(x), given - half, given + half)
        return self._picture(inside, x)

    def _steps(self, x: Array) -> Array:
        tables = [LUMINANCE] + [CHROMINANCE] * (x.shape[-1] - 1)
        steps = [quantisation(self.quality, table) for table in tables]
        return jnp.asarray(np.stack(steps), x.dtype)[None, None, None]

    def _coefficients(self, x: Array) -> Array:
        """Coefficients of blocks, [batch, rows, columns, channels, 8, 8]."""
        batch, height, width, channels = x.shape
        if height % 8 or width % 8 or channels not in (1, 3):
            raise ValueError(
                "JPEG is for images of 1 or 3 channels whose sides are multiples of 8, "
                f"got shape {x.shape}."
            )
        levels = 127.5 * (x + 1)
        if channels == 3:
            levels = matmul(levels, jnp.asarray(TO_YCBCR.T, x.dtype))
        centred = levels - _offset(x)
        blocks = centred.reshape(batch, height // 8, 8, width // 8, 8, channels)
        waves = jnp.asarray(_cosines(), x.dtype)
        return einsum("ui,vj,briwjk->brwkuv", waves, waves, blocks)

    def _picture(self, coefficients: Array, like: Array) -> Array:
        """The picture of these coefficients, shaped like another."""
        waves = jnp.asarray(_cosines(), like.dtype)
        blocks = einsum("ui,vj,brwkuv->briwjk", waves, waves, coefficients)
        levels = blocks.reshape(like.shape) + _offset(like)
        if like.shape[-1] == 3:
            levels = matmul(levels, jnp.asarray(np.linalg.inv(TO_YCBCR).T, like.dtype))
        return levels / 127.5 - 1


def _offset(like: Array) -> Array:
    """The brightness that is 0 in a file; colours are differences already."""
    offsets = jnp.asarray([128.0, 0.0, 0.0][: like.shape[-1]], like.dtype)
    return offsets[None, None, None]


def _cosines() -> np.ndarray:
    """The orthonormal cosine transform of 8 numbers, a wave a row."""
    wave, place = np.arange(8)[:, None], np.arange(8)[None]
    matrix = np.cos(np.pi * (2 * place + 1) * wave / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix
