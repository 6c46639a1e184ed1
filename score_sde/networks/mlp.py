"""A residual multi-layer perceptron."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.blocks import Dropout, NoiseAndCondition, with_divergence
from score_sde.networks.options import Count, DropoutRate, Embedding, Size
from score_sde.types import Array


class MLP(nn.Module):
    """F(x, noise) for points, or for data of any shape as points: [batch, *dims].

    Args:
        width: features of the hidden layers.
        depth: number of residual blocks, each modulated by the embedding of the noise
            level and the condition.
    """

    reads: ClassVar = frozenset({"label", "vector", "ratio", "guidance", "divergence"})
    predicts_variance: ClassVar = False

    width: Size = 128
    depth: Size = 4
    dropout: DropoutRate = 0.0
    embedding: Embedding = "positional"
    num_classes: Count = 0
    vector_dims: Count = 0

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""
        del shape  # any will do
        return []

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        embedding = NoiseAndCondition(
            self.width, self.embedding, self.num_classes, self.vector_dims
        )(noise, cond)
        h = nn.Dense(self.width)(x.reshape(len(x), -1))
        for _ in range(self.depth):
            scale, shift = jnp.split(nn.Dense(2 * self.width)(embedding), 2, axis=-1)
            r = nn.silu(nn.LayerNorm()(h) * (1 + scale) + shift)
            r = nn.silu(nn.Dense(self.width)(r))
            r = Dropout(self.dropout)(r, deterministic)
            h += nn.Dense(self.width, kernel_init=nn.initializers.zeros)(r)
        h = nn.silu(nn.LayerNorm()(h))
        size = math.prod(x.shape[1:])
        out = nn.Dense(size, kernel_init=nn.initializers.zeros)(h)
        return with_divergence(out.reshape(x.shape), h, cond)
