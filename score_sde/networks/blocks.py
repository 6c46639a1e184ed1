"""The parts that networks share: embeddings, residual block, attention, resampling."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import as_labels, example_keys, per_example
from score_sde.networks.attention import attend_to_self
from score_sde.networks.cond import has_entry, refuse_condition, require_condition
from score_sde.networks.layers import Dense, GroupNorm
from score_sde.types import NO_LABEL, Array


def positional_embedding(
    noise: Array, size: int, *, max_period: float = 10_000.0, scale: float = 1.0
) -> Array:
    """Embed in waves of geometric frequencies (Vaswani et al. 2017): [batch, size]."""
    half = size // 2
    frequencies = scale * np.exp(-math.log(max_period) * np.arange(half) / half)
    angles = noise[:, None] * jnp.asarray(frequencies, noise.dtype)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def fourier_embedding(noise: Array, size: int, *, scale: float = 16.0) -> Array:
    """Embed in waves of random frequencies (Tancik et al. 2020): [batch, size]."""
    frequencies = np.random.RandomState(0).normal(size=size // 2) * scale
    angles = 2 * math.pi * noise[:, None] * jnp.asarray(frequencies, noise.dtype)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


SECOND_LEVEL = "second_level"
"""The name of that module in a network."""


class SecondLevel(nn.Module):
    """What the level where a jump ends adds to an embedding: nothing before training.

    Args:
        size: of the embedding.
    """

    size: int

    @nn.compact
    def __call__(self, ratio: Array) -> Array:
        h = nn.silu(nn.Dense(self.size)(ratio_waves(ratio)))
        return nn.Dense(self.size, kernel_init=nn.initializers.zeros)(h)


def ratio_waves(ratio: Array) -> Array:
    """Cosines and sines of the ratio of two noise levels, in [0, 1]: [batch, 16].

    It is seen as log(1 + 1000 ratio), which tells far ends apart: from sigma = 80 both
    0.4 and 0 are nearly a ratio of 0.
    """
    place = jnp.log1p(1000 * ratio) / math.log(1001)
    numbers = jnp.arange(1.0, 9.0, dtype=ratio.dtype)[None]
    angles = math.pi * place[:, None] * numbers
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


class NoiseAndCondition(nn.Module):
    """Embedding of the noise level and the condition: one vector per example.

    The noise condition of most preconditioners is log(sigma)/4, of the order of one.
    The highest positional frequency is 4: at 30 the learned flow is so rough in log
    sigma that a likelihood takes three times the evaluations (245 against 87, digits).
    """

    size: int
    embedding: str = "positional"
    num_classes: int = 0
    vector_dims: int = 0

    @nn.compact
    def __call__(self, noise: Array, cond: Any) -> Array:
        if self.embedding == "fourier":
            h = fourier_embedding(noise, self.size)
        else:
            h = positional_embedding(noise, self.size, max_period=100.0, scale=4.0)
        h = nn.Dense(self.size)(nn.silu(nn.Dense(self.size)(h)))
        if self.num_classes:
            require_condition(cond, "label")
            label = as_labels(cond["label"], self.num_classes)
            h += _embedded(label, nn.Embed(self.num_classes, self.size))
        else:
            refuse_condition(cond, "label", "num_classes")
        if self.vector_dims:
            require_condition(cond, "vector")
            h += nn.Dense(self.size)(cond["vector"])
        else:
            refuse_condition(cond, "vector", "vector_dims")
        if has_entry(cond, "ratio"):
            h += SecondLevel(self.size, name=SECOND_LEVEL)(cond["ratio"])
        return nn.silu(h)


def _embedded(label: Array, embed: nn.Embed) -> Array:
    """Embed each label; zeros where there is none."""
    known = (label != NO_LABEL)[:, None]
    return jnp.where(known, embed(jnp.maximum(label, 0)), 0.0)


def group_norm(channels: int) -> GroupNorm:
    """Group norm with up to 32 groups of at least four channels (Wu and He 2018)."""
    groups = min(32, max(1, channels // 4))
    while channels % groups:
        groups -= 1
    return GroupNorm(groups, eps=1e-5)


class Dropout(nn.Module):
    """Dropout: each value is zero with probability `rate` (Srivastava et al. 2014).

    Flax's draws one mask for the batch; here that of example i is a function of
    (key, i), whatever part of the batch it comes in.
    """

    rate: float

    def __call__(self, x: Array, deterministic: bool) -> Array:
        if deterministic or not self.rate:
            return x
        keys = example_keys(self.make_rng("dropout"), len(x))
        kept = per_example(
            lambda key, dims, _: jr.bernoulli(key, 1 - self.rate, dims), keys, x
        )
        return jnp.where(kept, x / (1 - self.rate), 0)


class ResidualBlock(nn.Module):
    """Two convolutions of side 3; the embedding scales and shifts between them.

    Norm, SiLU, convolution twice, the last one initialised at zero (Dhariwal 2021).
    """

    channels: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, embedding: Array, deterministic: bool) -> Array:
        h = nn.silu(group_norm(x.shape[-1])(x))
        h = nn.Conv(self.channels, kernel_of(x))(h)
        zeros = nn.initializers.zeros
        scale_shift = nn.Dense(2 * self.channels, kernel_init=zeros)(embedding)
        scale, shift = jnp.split(over_space(scale_shift, h), 2, axis=-1)
        h = nn.silu(group_norm(self.channels)(h) * (1 + scale) + shift)
        h = Dropout(self.dropout)(h, deterministic)
        h = nn.Conv(self.channels, kernel_of(x), kernel_init=zeros)(h)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels)(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over all positions, with a residual initialised at zero."""

    num_heads: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, *_, channels = x.shape
        h = group_norm(channels)(x).reshape(batch, -1, channels)
        out = attend_to_self(Dense(3 * channels)(h), self.num_heads)
        out = Dense(channels, kernel_init=nn.initializers.zeros)(out)
        return x + out.reshape(x.shape)


def kernel_of(x: Array) -> tuple[int, ...]:
    """The sides, all 3, of a convolution's kernel for x, [batch, *space, channels]."""
    return (3,) * (x.ndim - 2)


def over_space(vector: Array, x: Array) -> Array:
    """[batch, size] with an axis of length 1 for each axis of space of x."""
    return jnp.expand_dims(vector, tuple(range(1, x.ndim - 1)))


def downsample(x: Array) -> Array:
    """Halve each axis of space by the mean of 2, 2x2 or 2x2x2 neighbours."""
    batch, *sides, channels = x.shape
    halves = [n for side in sides for n in (side // 2, 2)]
    pairs = range(2, 2 * len(sides) + 1, 2)
    return x.reshape(batch, *halves, channels).mean(tuple(pairs))


def upsample(x: Array) -> Array:
    """Double each axis of space by the nearest neighbour.

    There is no transposed convolution, whose gradient is slow in XLA.
    """
    for axis in range(1, x.ndim - 1):
        x = x.repeat(2, axis=axis)
    return x
