"""The parts that networks share: embeddings, residual block, attention, resampling."""

from __future__ import annotations

import math
from collections.abc import Callable
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


SECOND_LEVEL, GUIDANCE_WEIGHT = "second_level", "guidance_weight"
"""The names, in a network, of the modules for what students alone are told."""


class ToldLater(nn.Module):
    """Embedding of a number that students alone are told: zero before training.

    Args:
        size: of the embedding.
    """

    size: int

    @nn.compact
    def __call__(self, waves: Array) -> Array:
        h = nn.silu(nn.Dense(self.size)(waves))
        return nn.Dense(self.size, kernel_init=nn.initializers.zeros)(h)


def add_told_later(
    h: Array, cond: Any, make: Callable[..., nn.Module] = ToldLater
) -> Array:
    """Add to an embedding [batch, size] what a condition says to students alone.

    Where a jump ends, "ratio", and with what weight the teacher was guided, "guidance";
    a network that is told neither is unchanged. To be called within a compact method.

    Args:
        h: the embedding.
        cond: the condition, or None.
        make: the module of one of them, made with its size and name.
    """
    for entry, name, waves in (
        ("ratio", SECOND_LEVEL, ratio_waves),
        ("guidance", GUIDANCE_WEIGHT, weight_waves),
    ):
        if has_entry(cond, entry):
            h = h + make(h.shape[-1], name=name)(waves(cond[entry]))
    return h


def ratio_waves(ratio: Array) -> Array:
    """Cosines and sines of the ratio of two noise levels: [batch, 16].

    It is seen as log(1 + 1000 ratio), which tells far ends apart: from sigma = 80 both
    0.4 and 0 are nearly a ratio of 0. Above 1, for a jump to a higher level, its
    inverse is seen so, on the other side of 1.
    """
    place = jnp.log1p(1000 * jnp.minimum(ratio, 1)) / math.log(1001)
    above = jnp.log1p(1000 / jnp.maximum(ratio, 1)) / math.log(1001)
    return _waves(place + (1 - above))


def weight_waves(weight: Array) -> Array:
    """Cosines and sines of a weight of guidance, [batch] -> [batch, 16].

    It is seen as asinh(weight): weights from -10 to 10 are within half a period.
    """
    return _waves(jnp.arcsinh(weight) / math.asinh(10))


def _waves(place: Array) -> Array:
    numbers = jnp.arange(1.0, 9.0, dtype=place.dtype)[None]
    angles = math.pi * place[:, None] * numbers
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


DIVERGENCE = "divergence"
"""The entry of a condition that asks a network for the divergence of a jump, and the
name of the module that gives it."""


class DivergenceHead(nn.Module):
    """The number h of a jump's divergence (`flow_map.make_jump`): 0 before training.

    A divergence is a sum over coordinates: a hidden layer at each position, the mean
    over positions, and a layer that starts at zero.
    """

    size: int = 128

    @nn.compact
    def __call__(self, features: Array) -> Array:
        h = nn.silu(nn.Dense(self.size)(features))
        h = h.mean(tuple(range(1, h.ndim - 1)))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(h)


def with_divergence(
    out: Array,
    features: Array,
    cond: Any,
    make: Callable[..., Any] = DivergenceHead,
) -> Array:
    """Join a network's output with the divergence, if it is asked for.

    It is one more channel behind the others, the same at all positions. To be called
    within a compact method.

    Args:
        out: [batch, *dims].
        features: of the last layer, [batch, *space, channels].
        cond: the condition; an entry `DIVERGENCE` asks for it.
        make: the module of the head, made with its name.
    """
    if not has_entry(cond, DIVERGENCE):
        return out
    h = make(name=DIVERGENCE)(features.astype(out.dtype))
    h = h.reshape(len(h), *[1] * (out.ndim - 1))
    return jnp.concatenate([out, jnp.broadcast_to(h, (*out.shape[:-1], 1))], axis=-1)


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
        h = add_told_later(h, cond)
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
