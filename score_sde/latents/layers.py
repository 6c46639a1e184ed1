"""The parts of the convolutional autoencoders of Rombach et al. 2022.

Group norms have eps 1e-6, and SiLU is the only non-linearity. Norms and the logits of
attention are in float32 at least, whatever the products are in: those of published
autoencoders overflow float16.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from score_sde.arrays import wide
from score_sde.networks.attention import attend
from score_sde.networks.blocks import Dropout, upsample
from score_sde.networks.layers import Dense, GroupNorm
from score_sde.types import Array

EPS = 1e-6
"""Added to variances in the group norms."""


def conv(channels: int, name: str, dtype: Any = None) -> nn.Conv:
    """A 3x3 convolution that keeps the sides."""
    return nn.Conv(channels, (3, 3), name=name, dtype=dtype)


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution twice, beside the input or a linear map of it.

    Args:
        channels: of the output.
        groups: of the norms.
        dropout: rate before the second convolution.
        dtype: of the products; None for that of the input.
    """

    channels: int
    groups: int = 32
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        h = nn.silu(GroupNorm(self.groups, EPS, name="norm1")(x))
        h = conv(self.channels, "conv1", self.dtype)(h)
        h = nn.silu(GroupNorm(self.groups, EPS, name="norm2")(h))
        h = Dropout(self.dropout)(h, deterministic)
        h = conv(self.channels, "conv2", self.dtype)(h)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, name="shortcut", dtype=self.dtype)(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention of one head over all positions, beside the input.

    Args:
        groups: of the norm.
        dtype: of the products; None for that of the input.
    """

    groups: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, *_, channels = x.shape
        h = GroupNorm(self.groups, EPS, name="norm")(x).reshape(batch, -1, 1, channels)
        q, k, v = (Dense(channels, name=n, dtype=self.dtype)(h) for n in "qkv")
        out = Dense(channels, name="out", dtype=self.dtype)(attend(q, k, v))
        return x + out.reshape(x.shape)


class Downsample(nn.Module):
    """Halve the sides by a 3x3 convolution with stride 2.

    The image is padded on the right and at the bottom alone. A symmetric padding would
    shift every feature by half a pixel of the result.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        convolve = nn.Conv(
            x.shape[-1],
            (3, 3),
            strides=(2, 2),
            padding=((0, 1), (0, 1)),
            name="conv",
            dtype=self.dtype,
        )
        return convolve(x)


class Upsample(nn.Module):
    """Double the sides by the nearest neighbour, then convolve."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return conv(x.shape[-1], "conv", self.dtype)(upsample(x))


def middle(x: Array, groups: int, attention: bool, dtype: Any) -> Array:
    """The lowest level: a block, attention, a block; inside a compact module."""
    x = ResnetBlock(x.shape[-1], groups, dtype=dtype, name="mid_block_1")(x)
    if attention:
        x = AttentionBlock(groups, dtype, name="mid_attn_1")(x)
    return ResnetBlock(x.shape[-1], groups, dtype=dtype, name="mid_block_2")(x)


def finished(x: Array, channels: int, groups: int, dtype: Any) -> Array:
    """Norm, SiLU and the last convolution; inside a compact module."""
    h = nn.silu(GroupNorm(groups, EPS, name="norm_out")(x))
    return conv(channels, "conv_out", dtype)(h)


def as_float32(x: Array) -> Array:
    """x in float32 at least, for layers whose values overflow shorter types."""
    return x.astype(wide(x.dtype))
