"""VGG16 with the heads of LPIPS, v0.1 (Simonyan and Zisserman 2015; Zhang et al. 2018).

Input x / 127.5 - 1 of uint8 images of any size from 16 x 16.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from score_sde.networks.features.parts import conv
from score_sde.types import Array

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
SLICES = (
    (64, (0, 2)),
    (128, (5, 7)),
    (256, (10, 12, 14)),
    (512, (17, 19, 21)),
    (512, (24, 26, 28)),
)
"""Channels, and the numbers of convolutions in torchvision's VGG16."""
EPS = 1e-10
"""Added to lengths of feature vectors."""


class LPIPSVGG(nn.Module):
    """Output "embedding" [batch, positions * channels], and "per_layer" of it.

    LPIPS of two images is the squared Euclidean distance of their embeddings: features
    normalised over channels, times the roots of the heads, over the root of the number
    of positions.
    """

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        h = (x - SHIFT[None, None, None]) / SCALE[None, None, None]
        layers = {}
        for i, (channels, numbers) in enumerate(SLICES):
            if i:
                h = nn.max_pool(h, (2, 2), (2, 2))
            for number in numbers:
                name = f"net.slice{i + 1}.{number}"
                h = nn.relu(conv(channels, 3, padding="SAME", bias=True, name=name)(h))
            ones = nn.initializers.ones
            head = self.param(
                f"lin{i}.model.1.weight", ones, (1, channels, 1, 1), jnp.float32
            )
            length = jnp.sqrt(jnp.sum(h * h, -1, keepdims=True)) + EPS
            positions = h.shape[1] * h.shape[2]
            root = jnp.sqrt(head.reshape(1, 1, 1, channels) / positions)
            layers[f"layer{i}"] = (h / length * root).reshape(len(x), -1)
        return {"embedding": jnp.concatenate(list(layers.values()), -1), **layers}
