"""A classifier of noisy examples: a perceptron that knows the noise level."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.blocks import Dropout, NoiseAndCondition
from score_sde.networks.options import DropoutRate, Size
from score_sde.types import Array


class Classifier(nn.Module):
    """Logits [batch, num_labels] of x, [batch, *dims], at a noise condition.

    Its layers are all dense, since its gradient is taken in the sampler's loop, where
    that of convolutions is slow on a CPU.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    predicts_variance: ClassVar = False

    num_labels: Size
    width: Size = 256
    depth: Size = 3
    dropout: DropoutRate = 0.2

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""
        del shape  # any will do
        return []

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        del cond
        embedding = NoiseAndCondition(self.width)(noise, None)
        h = nn.Dense(self.width)(x.reshape(len(x), -1))
        for _ in range(self.depth):
            scale, shift = jnp.split(nn.Dense(2 * self.width)(embedding), 2, axis=-1)
            r = nn.silu(nn.LayerNorm()(h) * (1 + scale) + shift)
            r = nn.silu(nn.Dense(self.width)(r))
            r = Dropout(self.dropout)(r, deterministic)
            h += nn.Dense(self.width)(r)
        return nn.Dense(self.num_labels)(nn.silu(nn.LayerNorm()(h)))
