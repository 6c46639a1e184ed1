"""Layers that Flax has too, in forms that XLA compiles to faster programs."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.arrays import wide
from score_sde.types import Array


def by_rows(x: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    """Contract the last axis of x with the first of the kernel, as matrices.

    XLA on CPUs transposes the gradient of one that sums over several axes, and computes
    all that leads to it anew while it does: 3 to 5 times as long, with gradients.
    """
    del dimensions
    rows = x.reshape(-1, x.shape[-1])
    out = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


Dense = partial(nn.Dense, dot_general=by_rows)
"""The map x W + b of the last axis of x."""


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018), in float32 at least.

    A group is all positions of contiguous channels.

    The variance is taken about the mean: the mean square less the squared mean, which
    Flax takes, and in one type only, loses digits where the mean is large.
    """

    groups: int
    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        # As a call with a name: traced once, and left out by `flops`.
        norm = jax.jit(normalise_groups, static_argnames=("groups", "eps"))
        return norm(x, scale, bias, groups=self.groups, eps=self.eps)


def normalise_groups(
    x: Array, scale: Array, bias: Array, *, groups: int, eps: float
) -> Array:
    """Normalise groups of channels, as `GroupNorm` does.

    The few sums over positions are averaged over groups, and repeated for each channel
    by a product with a matrix of zeros and ones. Loops over the large array that know
    of groups, whose channels are few, take XLA on CPUs up to four times as long, with
    gradients.
    """
    x = x.astype(wide(x.dtype))
    channels, space = x.shape[-1], tuple(range(1, x.ndim - 1))
    scale, bias = (
        jnp.expand_dims(a.astype(x.dtype), (0, *space)) for a in (scale, bias)
    )
    group = jnp.arange(channels)[None] // (channels // groups)
    is_in = (group == jnp.arange(groups)[:, None]).astype(x.dtype)

    def mean(a: Array) -> Array:
        by_group = a.mean(space).reshape(len(a), groups, -1).mean(-1)
        by_channel = jnp.matmul(by_group, is_in, precision="highest")
        return jnp.expand_dims(by_channel, space)

    h = x - mean(x)
    return h * (jax.lax.rsqrt(mean(jnp.square(h)) + eps) * scale) + bias
