"""A small classifier that is trained on a data set itself, for features of its own."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.blocks import Dropout
from score_sde.types import Array

CHANNELS = (16, 32)
"""Of the convolutions, each of which halves the sides."""


class SmallClassifier(nn.Module):
    """Outputs "features" [batch, width] and "logits" [batch, num_labels].

    Of images it also gives its convolutions, "layer0" and "layer1".

    Two convolutions of images [batch, height, width, channels], a dense layer of
    anything else, [batch, *dims]; then the last hidden layer, which the features are.
    """

    num_labels: int
    width: int = 64
    dropout: float = 0.3

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> dict[str, Array]:
        layers = {}
        if x.ndim == 4:
            for i, channels in enumerate(CHANNELS):
                layers[f"layer{i}"] = x = nn.silu(nn.Conv(channels, (3, 3))(x))
                sides = tuple(min(2, n) for n in x.shape[1:3])
                x = nn.avg_pool(x, sides, sides)
        else:
            x = nn.silu(nn.Dense(4 * self.width)(x.reshape(len(x), -1)))
        x = Dropout(self.dropout)(x.reshape(len(x), -1), deterministic)
        features = jnp.tanh(nn.Dense(self.width)(x))
        h = Dropout(self.dropout)(features, deterministic)
        logits = nn.Dense(self.num_labels)(h)
        return {"features": features, "logits": logits, **layers}
