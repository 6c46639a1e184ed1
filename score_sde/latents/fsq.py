"""Finite scalar quantisation (Mentzer et al. 2024): a codebook that can't collapse.

Every channel is squashed to a range of as many whole numbers as it has levels, and
rounded. The code is the number whose digits they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.latents.codebook import straight_through
from score_sde.types import Array

MARGIN = 1e-3
"""Beyond the outermost numbers, so that they are reached at finite latents."""


def bounded(z: Array, levels: Sequence[int]) -> Array:
    """Squash each channel to about [-1, 1], in which its levels lie evenly.

    z = 0 stays 0 for an odd number of levels; for an even one it lies half a level
    from the two in the middle.
    """
    half, offset, shift = _constants(levels, z)
    return (jnp.tanh(z + shift) * half - offset) / _width(levels, z)


def rounded(x: Array, levels: Sequence[int]) -> Array:
    """Round bounded channels to their levels, with the gradient of the channels.

    Values outside of the range become the outermost level.
    """
    width = _width(levels, x)
    low, high = _range(levels, x)
    return straight_through(x, jnp.clip(jnp.round(x * width), low, high) / width)


def code_of(x: Array, levels: Sequence[int]) -> Array:
    """The code of rounded channels, int [...], from 0 to the product of the levels."""
    low, _ = _range(levels, x)
    digits = jnp.round(x * _width(levels, x) - low).astype(jnp.int32)
    basis = np.cumprod([1, *levels[:-1]]).astype(np.int32)
    return (digits * basis.reshape((1,) * (x.ndim - 1) + (-1,))).sum(-1)


def channels_of(codes: Array, levels: Sequence[int]) -> Array:
    """The rounded channels of a code: undo `code_of`."""
    basis = np.cumprod([1, *levels[:-1]]).astype(np.int32)
    row = (1,) * codes.ndim + (-1,)
    sizes = np.asarray(levels, np.int32).reshape(row)
    digits = (codes.astype(jnp.int32)[..., None] // basis.reshape(row)) % sizes
    like = jnp.zeros((), float)
    low, _ = _range(levels, like[None])
    numbers = digits.astype(like.dtype) + low.reshape(row)
    return numbers / _width(levels, like[None]).reshape(row)


def _constants(levels: Sequence[int], z: Array) -> tuple[Array, Array, Array]:
    half = [(n - 1) * (1 + MARGIN) / 2 for n in levels]
    offset = [0.5 if n % 2 == 0 else 0.0 for n in levels]
    shift = [math.atanh(o / h) for o, h in zip(offset, half, strict=True)]
    return _row(half, z), _row(offset, z), _row(shift, z)


def _width(levels: Sequence[int], z: Array) -> Array:
    return _row([n // 2 for n in levels], z)


def _range(levels: Sequence[int], z: Array) -> tuple[Array, Array]:
    low = [-(n // 2) for n in levels]
    return _row(low, z), _row([n - 1 - n // 2 for n in levels], z)


def _row(values: Sequence[float], z: Array) -> Array:
    row: Array = jax.numpy.asarray(values, z.dtype)
    return row.reshape((1,) * (z.ndim - 1) + (-1,))
