"""The U-Net of the field: residual blocks down, across and up, with skips."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.blocks import (
    Attention,
    NoiseAndCondition,
    ResidualBlock,
    downsample,
    group_norm,
    upsample,
)
from score_sde.types import Array


def down_and_up(
    h: Array,
    block: Callable[[Array, int], Array],
    widths: Sequence[int],
    blocks_per_level: int,
) -> Array:
    """h after all blocks: halved between the widths, and back up, with skips.

    Args: `block(h, width)`, called blocks_per_level times at each width on the way
    down, once in the middle and once more often at each width on the way up.
    """
    skips = [h]
    for level, width in enumerate(widths):
        if level > 0:
            h = downsample(h)
            skips.append(h)
        for _ in range(blocks_per_level):
            h = block(h, width)
            skips.append(h)
    h = block(h, widths[-1])
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(blocks_per_level + 1):
            h = block(jnp.concatenate([h, skips.pop()], axis=-1), width)
        if level > 0:
            h = upsample(h)
    return h


class UNet(nn.Module):
    """F(x, noise) for images, [batch, height, width, channels] (Ho et al. 2020).

    Args:
        channels: at full resolution; times multipliers[i] after i halvings.
        blocks_per_level: residual blocks on the way down; one more on the way up.
        attention_resolutions: heights at which self-attention follows each block.
        embedding: of the noise level, 'positional' or 'fourier'.
        num_classes, vector_dims: of the condition; 0 for none.
        input_frequencies: the network also sees sin and cos of its input times pi times
            each of these, so that it can resolve the grey levels of quantised data,
            which decide the likelihood (Kingma et al. 2021, app. C).
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks_per_level: int = 2
    attention_resolutions: tuple[int, ...] = ()
    num_heads: int = 1
    dropout: float = 0.0
    embedding: str = "positional"
    num_classes: int = 0
    vector_dims: int = 0
    input_frequencies: tuple[float, ...] = ()

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        embedding = NoiseAndCondition(
            4 * self.channels, self.embedding, self.num_classes, self.vector_dims
        )(noise, cond)

        def block(h: Array, channels: int) -> Array:
            h = ResidualBlock(channels, self.dropout)(h, embedding, deterministic)
            if h.shape[1] in self.attention_resolutions:
                h = Attention(self.num_heads)(h)
            return h

        h = nn.Conv(self.channels, (3, 3))(self._with_waves(x, embedding))
        widths = [self.channels * m for m in self.multipliers]
        h = down_and_up(h, block, widths, self.blocks_per_level)
        h = nn.silu(group_norm(h.shape[-1])(h))
        return nn.Conv(x.shape[-1], (3, 3), kernel_init=nn.initializers.zeros)(h)

    def _with_waves(self, x: Array, embedding: Array) -> Array:
        """x and its sines and cosines, behind a gate that starts closed.

        At high noise they are noise themselves, so the noise level opens the gate.
        """
        if not self.input_frequencies:
            return x
        angles = [math.pi * f * x for f in self.input_frequencies]
        waves = jnp.concatenate([*map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)
        zeros = nn.initializers.zeros
        gate = nn.Dense(waves.shape[-1], kernel_init=zeros)(embedding)
        return jnp.concatenate([x, waves * gate[:, None, None, :]], axis=-1)
