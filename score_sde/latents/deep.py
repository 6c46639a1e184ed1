"""DC-AE: sides divided by 32 and more, by residual autoencoding (Chen et al. 2025).

Halving and doubling are beside a shortcut without parameters: space to channels, and
the mean of groups of these; channels repeated, and channels to space. On the lower
levels, blocks are linear attention over several scales and a gated convolution (Cai et
al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from score_sde.arrays import wide
from score_sde.latents.autoencoders import Autoencoder
from score_sde.latents.posterior import Posterior
from score_sde.networks.blocks import upsample
from score_sde.networks.layers import Dense
from score_sde.networks.options import Size, Widths
from score_sde.rules import NonNegative, Positive, each
from score_sde.types import Array

NORM_EPS = 1e-5
ATTENTION_EPS = 1e-15
KERNEL = 5
"""Side of the convolutions that give queries, keys and values another scale."""
EXPANSION = 4
"""Channels inside the gated convolution, over those outside."""


def space_to_channels(x: Array) -> Array:
    """[batch, 2h, 2w, c] to [batch, h, w, 4c]: channel 4 i + 2 row + column."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = x.transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def channels_to_space(x: Array) -> Array:
    """[batch, h, w, 4c] to [batch, 2h, 2w, c]: undo `space_to_channels`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // 4, 2, 2)
    x = x.transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def mean_of_groups(x: Array, channels: int) -> Array:
    """As many channels, each the mean of a group of neighbouring ones."""
    return x.reshape(*x.shape[:-1], channels, -1).mean(-1)


def halved(x: Array, channels: int) -> Array:
    """The shortcut of halving: x with half the sides and these channels."""
    return mean_of_groups(space_to_channels(x), channels)


def doubled(x: Array, channels: int) -> Array:
    """The shortcut of doubling: x with twice the sides and these channels."""
    repeats = 4 * channels // x.shape[-1]
    return channels_to_space(jnp.repeat(x, repeats, axis=-1))


class RMSNorm(nn.Module):
    """x over its root mean square over channels, with scale and bias."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        dtype = wide(x.dtype)
        h = x.astype(dtype)
        h = h / jnp.sqrt((h**2).mean(-1, keepdims=True) + NORM_EPS)
        row = (1,) * (x.ndim - 1) + channels
        return h * scale.astype(dtype).reshape(row) + bias.astype(dtype).reshape(row)


class ResBlock(nn.Module):
    """Convolution, SiLU, convolution, norm, beside the input."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.silu(nn.Conv(x.shape[-1], (3, 3), name="conv1")(x))
        h = nn.Conv(x.shape[-1], (3, 3), use_bias=False, name="conv2")(h)
        return x + RMSNorm(name="norm")(h)


class LinearAttention(nn.Module):
    """ReLU attention over all positions, of queries, keys and values on two scales.

    Where there are fewer positions than channels of a head, the products are taken in
    the other order, which is the same but for the normaliser.
    """

    head_dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        parts = [Dense(channels, use_bias=False, name=f"to_{n}")(x) for n in "qkv"]
        here = jnp.concatenate(parts, -1)
        size = here.shape[-1]
        by_channel = nn.Conv(
            size,
            (KERNEL, KERNEL),
            feature_group_count=size,
            use_bias=False,
            name="scale_in",
        )
        by_head = nn.Conv(
            size,
            (1, 1),
            feature_group_count=size // self.head_dim,
            use_bias=False,
            name="scale_out",
        )
        both = jnp.concatenate([here, by_head(by_channel(here))], -1)
        both = both.astype(wide(x.dtype)).reshape(
            batch, height * width, -1, 3 * self.head_dim
        )
        q, k, v = jnp.split(both, 3, axis=-1)
        q, k = nn.relu(q), nn.relu(k)
        if height * width > self.head_dim:
            sums = jnp.einsum("bnhk,bnhv->bhkv", k, v)
            h = jnp.einsum("bnhk,bhkv->bnhv", q, sums)
            total = jnp.einsum("bnhk,bhk->bnh", q, k.sum(1))
            h = h / (total[..., None] + ATTENTION_EPS)
        else:
            weights = jnp.einsum("bnhk,bmhk->bhnm", q, k)
            weights = weights / (weights.sum(-1, keepdims=True) + ATTENTION_EPS)
            h = jnp.einsum("bhnm,bmhv->bnhv", weights, v)
        h = h.reshape(batch, height, width, -1).astype(x.dtype)
        out = Dense(channels, use_bias=False, name="to_out")(h)
        return x + RMSNorm(name="norm_out")(out)


class GatedConv(nn.Module):
    """A convolution by channel between linear maps, half of it a gate."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        size = 2 * EXPANSION * channels
        h = nn.silu(Dense(size, name="conv_inverted")(x))
        h = nn.Conv(size, (3, 3), feature_group_count=size, name="conv_depth")(h)
        h, gate = jnp.split(h, 2, axis=-1)
        h = Dense(channels, use_bias=False, name="conv_point")(h * nn.silu(gate))
        return x + RMSNorm(name="norm")(h)


class AttentionBlock(nn.Module):
    """Linear attention, then the gated convolution."""

    head_dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = LinearAttention(self.head_dim, name="attn")(x)
        return GatedConv(name="conv_out")(x)


class _Half(nn.Module):
    """What encoder and decoder have in common."""

    out_channels: int
    widths: Sequence[int]
    blocks: Sequence[int]
    attention_from: int
    head_dim: int

    def block(self, x: Array, name: str, level: int) -> Array:
        if level < self.attention_from:
            return ResBlock(name=name)(x)
        return AttentionBlock(self.head_dim, name=name)(x)


class _Encoder(_Half):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.Conv(self.widths[0], (3, 3), name="conv_in")(x)
        last = len(self.widths) - 1
        for level, count in enumerate(self.blocks):
            for j in range(count):
                h = self.block(h, f"down_{level}_{j}", level)
            if level < last:
                width = self.widths[level + 1]
                name = f"down_{level}_{count}"
                below = nn.Conv(width // 4, (3, 3), name=name)(h)
                h = space_to_channels(below) + halved(h, width)
        out = nn.Conv(self.out_channels, (3, 3), name="conv_out")(h)
        return out + mean_of_groups(h, self.out_channels)


class _Decoder(_Half):
    @nn.compact
    def __call__(self, z: Array) -> Array:
        last = len(self.widths) - 1
        h = nn.Conv(self.widths[last], (3, 3), name="conv_in")(z)
        h = h + jnp.repeat(z, self.widths[last] // z.shape[-1], axis=-1)
        for level in reversed(range(last + 1)):
            first = 0
            if level < last:
                width = self.widths[level]
                above = nn.Conv(width, (3, 3), name=f"up_{level}_0")(upsample(h))
                h, first = above + doubled(h, width), 1
            for j in range(self.blocks[level]):
                h = self.block(h, f"up_{level}_{first + j}", level)
        h = nn.relu(RMSNorm(name="norm_out")(h))
        return nn.Conv(self.out_channels, (3, 3), name="conv_out")(h)


class DeepAutoencoder(Autoencoder):
    """DC-AE: an autoencoder without noise whose latents have few positions.

    Args:
        shape: of one image, which the data give.
        latent_channels: channels of the latents.
        channels: of level 0, times its multiplier.
        multipliers: of the channels, one for each level.
        blocks: of the encoder on each level.
        decoder_blocks: of the decoder on each level, alike from that of the image.
        attention_from: the first level whose blocks are attention.
        channels_per_head: of the attention.
    """

    shape: tuple[int, ...] = (512, 512, 3)
    latent_channels: Size = 32
    channels: Size = 128
    multipliers: Widths = (1, 2, 4, 4, 8, 8)
    blocks: Annotated[tuple[int, ...], each(Positive, at_least_one=True)] = (
        *(2, 2, 2),
        *(3, 3, 3),
    )
    decoder_blocks: Annotated[tuple[int, ...], each(Positive, at_least_one=True)] = (
        *(3, 3, 3),
        *(3, 3, 3),
    )
    attention_from: Annotated[int, NonNegative] = 3
    channels_per_head: Size = 32

    last_layer: ClassVar = ("decoder", "conv_out", "kernel")

    @property
    def factor(self) -> int:
        """By how much it divides the sides of an image."""
        return 2 ** (len(self.multipliers) - 1)

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for images of this shape."""
        found, levels = super().problems(shape), len(self.multipliers)
        found += [
            f"{name} is {value}; it must have {levels} numbers, as multipliers has"
            for name, value in (
                ("blocks", self.blocks),
                ("decoder_blocks", self.decoder_blocks),
            )
            if len(value) != levels
        ]
        widths = [self.channels * m for m in self.multipliers]
        pairs = zip(widths, widths[1:], strict=False)
        # Groups of a shortcut are whole, in both directions.
        found += [
            f"multipliers give {low} channels below {high}; one must divide four "
            "times the other, and 4 the lower level's"
            for high, low in pairs
            if (4 * high) % low or low % 4
        ]
        if widths[-1] % self.latent_channels:
            found.append(
                f"latent_channels is {self.latent_channels}; it must divide the "
                f"{widths[-1]} channels of the lowest level"
            )
        found += [
            f"channels_per_head is {self.channels_per_head}; it must divide the "
            f"{width} channels of a level with attention"
            for width in sorted(set(widths[self.attention_from :]))
            if width % self.channels_per_head
        ]
        return found

    def setup(self) -> None:
        """Make the layers."""
        widths = tuple(self.channels * m for m in self.multipliers)
        common = (self.attention_from, self.channels_per_head)
        self.encoder = _Encoder(self.latent_channels, widths, self.blocks, *common)
        self.decoder = _Decoder(self.shape[-1], widths, self.decoder_blocks, *common)

    def encode(self, x: Array, deterministic: bool = True) -> Posterior:
        """The latents of images, without noise."""
        del deterministic
        return Posterior(self.encoder(x))

    def render(self, z: Array, deterministic: bool = True) -> Array:
        """The images of latents."""
        del deterministic
        return self.decoder(z)
