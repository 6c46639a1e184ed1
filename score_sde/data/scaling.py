"""Scaling of levels to [-1, 1] and back, here and nowhere else.

Level k of L fills the bin [2k/L - 1, 2(k+1)/L - 1), of width 2/L. Points and latents
pass unchanged.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import example_keys, per_example
from score_sde.types import Array, Key


def dequantise(key: Key, values: Array, *, num_levels: int | None) -> Array:
    """Turn levels into points of [-1, 1) by uniform noise that fills each bin.

    The noise of example i is a function of (key, i). Points pass unchanged.

    Args:
        key: a random key.
        values: [batch, ...].
        num_levels: grey levels; None for points.

    Source: Uria et al. 2013.
    """
    x = values.astype(jnp.float32)
    if num_levels is None:
        return x
    noise = per_example(jr.uniform, example_keys(key, x.shape[0]), x)
    return within_bins(2 * (x + noise) / num_levels - 1, values, num_levels=num_levels)


def within_bins(x: Array, values: Array, *, num_levels: int) -> Array:
    """Move points that rounding put on the edges of their levels' bins back inside.

    Else one of 200,000 points of float32 would be the next bin's.
    """
    level = values.astype(x.dtype)
    low, high = (2 * (level + side) / num_levels - 1 for side in (0, 1))
    return jnp.clip(x, low + 2.0**-22, high - 2.0**-22)


def centres(values: Any, *, num_levels: int | None) -> Any:
    """Turn levels into the centres of their bins in [-1, 1]; points pass unchanged."""
    x = values.astype(jnp.float32)
    return x if num_levels is None else (2 * x + 1) / num_levels - 1


def to_levels(x: Array, *, num_levels: int | None) -> Array:
    """Find the level whose bin holds x, clipped to the range: undo `dequantise`."""
    if num_levels is None:
        return x
    level = jnp.floor((x + 1) * (num_levels / 2))
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.uint8)


def flip_at_random(key: Key, images: Array) -> Array:
    """Mirror each image, [batch, height, width, channels], with probability a half."""
    keys = example_keys(key, images.shape[0])
    coins = jax.vmap(jr.bernoulli)(keys).reshape(-1, 1, 1, 1)
    return jnp.where(coins, images[:, :, ::-1], images)
