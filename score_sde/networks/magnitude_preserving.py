"""Layers that keep the magnitude of their input (Karras et al. 2024, app. B).

A signal of unit variance stays one: weights are normalised where they are used, sums
and concatenations are weighted, and nothing has a bias or a norm with parameters.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.types import Array


def normalise(x: Array, axes: tuple[int, ...], *, eps: float = 1e-4) -> Array:
    """x / (eps + its root mean square over the axes), eq. 47; the norm in float32."""
    wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    size = jnp.sqrt(jnp.mean(jnp.square(wide), axes, keepdims=True))
    return x / (eps + size).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """SiLU over its root mean square at a standard normal input (eq. 81)."""
    return nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """Sum (1-t) a + t b, over its magnitude for uncorrelated a and b (eq. 88)."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a: Array, b: Array, t: float) -> Array:
    """Join channels of a and b so that b weighs t / (1-t) times a (eq. 103)."""
    num_a, num_b = a.shape[-1], b.shape[-1]
    scale = math.sqrt((num_a + num_b) / ((1 - t) ** 2 + t**2))
    weight_a = scale * (1 - t) / math.sqrt(num_a)
    weight_b = scale * t / math.sqrt(num_b)
    return jnp.concatenate([weight_a * a, weight_b * b], axis=-1)


class MPFourier(nn.Module):
    """sqrt(2) cos(frequencies x + phases), frozen: to [batch, size] (eq. 75)."""

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        normal, uniform = nn.initializers.normal, nn.initializers.uniform
        shape, two_pi = (self.size,), 2 * math.pi
        freqs = self.param("freqs", normal(two_pi), shape, jnp.float32)
        phases = self.param("phases", uniform(two_pi), shape, jnp.float32)
        freqs, phases = (
            jax.lax.stop_gradient(p.astype(x.dtype)) for p in (freqs, phases)
        )
        angles = x[:, None] * freqs[None] + phases[None]
        return math.sqrt(2) * jnp.cos(angles)


class MPConv(nn.Module):
    """Linear map of the channels, or convolution, with normalised weights (eq. 66).

    Args:
        channels: number of its outputs.
        kernel: side of the kernel; 0 for a linear map at each position.
    """

    channels: int
    kernel: int = 0

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        sides = (self.kernel, self.kernel) if self.kernel else ()
        shape = (*sides, x.shape[-1], self.channels)
        normal = nn.initializers.normal(1.0)
        weight = self.param("weight", normal, shape, jnp.float32)
        weight = normalise(weight, tuple(range(len(shape) - 1)))
        gain = jnp.asarray(gain, weight.dtype) / math.sqrt(math.prod(shape[:-1]))
        weight = (weight * gain).astype(x.dtype)
        if not self.kernel:
            return x @ weight
        return jax.lax.conv_general_dilated(
            x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


def normalise_weights(params: Any) -> Any:
    """Normalise every weight of an `MPConv` in parameters; leave the rest.

    Training does so at each step (sec. 2.3), so that weights do not grow, which would
    make the learning rate that counts fall in its own way.
    """

    def one(path: tuple[Any, ...], leaf: Array) -> Array:
        if path[-1] != jax.tree_util.DictKey("weight"):
            return leaf
        return normalise(leaf, tuple(range(leaf.ndim - 1)))

    return jax.tree_util.tree_map_with_path(one, params)
