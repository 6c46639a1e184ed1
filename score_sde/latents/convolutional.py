"""Encoder and decoder of Rombach et al. 2022: residual blocks on halved sides.

    encoder: conv_in; each level blocks, attention, halving; middle; norm, conv_out
    decoder: conv_in; middle; each level blocks, attention, doubling; norm, conv_out

Level 0 has the sides of the image, also in the names of the decoder's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from score_sde.latents.layers import (
    AttentionBlock,
    Downsample,
    ResnetBlock,
    Upsample,
    as_float32,
    conv,
    finished,
    middle,
)
from score_sde.types import Array


class Plan(nn.Module):
    """The plan that encoder and decoder have in common.

    Args:
        out_channels: of the result.
        channels: of level 0, times its multiplier.
        multipliers: of the channels, one for each level.
        blocks_per_level: residual blocks of the encoder on each level; the decoder has
            one more.
        attention_levels: levels whose blocks are followed by attention.
        mid_attention: whether there is attention on the lowest level, between blocks.
        groups: of the norms.
        dropout: rate inside the residual blocks.
        dtype: of the products; None for that of the input.
    """

    out_channels: int
    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 4, 4)
    blocks_per_level: int = 2
    attention_levels: Sequence[int] = ()
    mid_attention: bool = True
    groups: int = 32
    dropout: float = 0.0
    dtype: Any = None

    def level(
        self, h: Array, side: str, level: int, blocks: int, deterministic: bool
    ) -> Array:
        """The blocks of a level, and their attention."""
        width = self.channels * self.multipliers[level]
        for j in range(blocks):
            name = f"{side}_{level}_block_{j}"
            block = ResnetBlock(width, self.groups, self.dropout, self.dtype, name=name)
            h = block(h, deterministic)
            if level in self.attention_levels:
                name = f"{side}_{level}_attn_{j}"
                h = AttentionBlock(self.groups, self.dtype, name=name)(h)
        return h


class Encoder(Plan):
    """Images [batch, height, width, channels] to moments, the sides divided by 2^n."""

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        h = conv(self.channels, "conv_in", self.dtype)(x)
        last = len(self.multipliers) - 1
        for i in range(last + 1):
            h = self.level(h, "down", i, self.blocks_per_level, deterministic)
            if i < last:
                h = Downsample(self.dtype, name=f"down_{i}_downsample")(h)
        h = middle(h, self.groups, self.mid_attention, self.dtype)
        return finished(as_float32(h), self.out_channels, self.groups, None)


class Decoder(Plan):
    """Latents to images; nothing bounds the result."""

    @nn.compact
    def __call__(self, z: Array, deterministic: bool = True) -> Array:
        last = len(self.multipliers) - 1
        h = conv(self.channels * self.multipliers[last], "conv_in", self.dtype)(z)
        h = middle(h, self.groups, self.mid_attention, self.dtype)
        for i in reversed(range(last + 1)):
            h = self.level(h, "up", i, self.blocks_per_level + 1, deterministic)
            if i > 0:
                h = Upsample(self.dtype, name=f"up_{i}_upsample")(h)
        return finished(as_float32(h), self.out_channels, self.groups, None)
