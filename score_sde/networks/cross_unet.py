"""The U-Net that reads a sequence of tokens (Rombach et al. 2022, sec. 3.3)."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.attention import attend
from score_sde.networks.blocks import (
    NoiseAndCondition,
    ResidualBlock,
    group_norm,
    kernel_of,
    with_divergence,
)
from score_sde.networks.cond import require_condition
from score_sde.networks.layers import Dense
from score_sde.networks.options import (
    Count,
    DropoutRate,
    Embedding,
    Sides,
    Size,
    Widths,
)
from score_sde.networks.unet import down_and_up, unet_problems
from score_sde.types import Array


class SpatialTransformer(nn.Module):
    """Pixels look at each other, then at the tokens, then each at itself.

    Each of the three is a residual branch behind a layer norm, and all together are
    one, whose last layer starts at zero.
    """

    num_heads: int

    @nn.compact
    def __call__(self, x: Array, tokens: Array | None, mask: Array | None) -> Array:
        batch, *_, channels = x.shape
        h = group_norm(channels)(x).reshape(batch, -1, channels)
        h = Dense(channels)(h)
        own = nn.LayerNorm()(h)
        h += self._attention(own, own, None)
        if tokens is not None:
            h += self._attention(nn.LayerNorm()(h), tokens, mask)
        value, gate = jnp.split(Dense(8 * channels)(nn.LayerNorm()(h)), 2, axis=-1)
        h += Dense(channels)(value * nn.gelu(gate))
        h = Dense(channels, kernel_init=nn.initializers.zeros)(h)
        return x + h.reshape(x.shape)

    def _attention(self, x: Array, context: Array, mask: Array | None) -> Array:
        channels = x.shape[-1]
        heads = (self.num_heads, channels // self.num_heads)
        q, k, v = (
            Dense(channels, use_bias=False)(a).reshape(*a.shape[:2], *heads)
            for a in (x, context, context)
        )
        return Dense(channels)(attend(q, k, v, mask=mask).reshape(x.shape))


class CrossUNet(nn.Module):
    """F(x, noise) for data in space, told cond["tokens"], [batch, length, dims].

    The `UNet` with a spatial transformer in place of its self-attention. A token whose
    entry in cond["mask"] is False is not read; an example has at least one that is.

    The other arguments are those of `UNet`.

    Args:
        token_dims: size of a token; 0 for a network without tokens.
    """

    reads: ClassVar = frozenset(
        {"label", "vector", "tokens", "mask", "ratio", "guidance", "divergence"}
    )
    predicts_variance: ClassVar = False

    channels: Size = 64
    multipliers: Widths = (1, 2)
    blocks_per_level: Size = 2
    attention_resolutions: Sides = ()
    num_heads: Size = 1
    dropout: DropoutRate = 0.0
    embedding: Embedding = "positional"
    num_classes: Count = 0
    vector_dims: Count = 0
    token_dims: Count = 0

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""
        return unet_problems(self, shape)

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        tokens = mask = None
        if self.token_dims:
            require_condition(cond, "tokens")
            tokens, mask = cond["tokens"].astype(x.dtype), cond.get("mask")
        embedding = NoiseAndCondition(
            4 * self.channels, self.embedding, self.num_classes, self.vector_dims
        )(noise, cond)

        def block(h: Array, channels: int) -> Array:
            h = ResidualBlock(channels, self.dropout)(h, embedding, deterministic)
            if h.shape[1] in self.attention_resolutions:
                h = SpatialTransformer(self.num_heads)(h, tokens, mask)
            return h

        widths = [self.channels * m for m in self.multipliers]
        h = nn.Conv(self.channels, kernel_of(x))(x)
        h = down_and_up(h, block, widths, self.blocks_per_level)
        h = nn.silu(group_norm(h.shape[-1])(h))
        zeros = nn.initializers.zeros
        out = nn.Conv(x.shape[-1], kernel_of(x), kernel_init=zeros)(h)
        return with_divergence(out, h, cond)
