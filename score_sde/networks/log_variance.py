"""The learned log of the loss at each noise level (Karras et al. 2024, eq. 21)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.blocks import fourier_embedding
from score_sde.networks.network import Network
from score_sde.types import Array, Key


class _LinearInFourierFeatures(nn.Module):
    size: int = 128

    @nn.compact
    def __call__(self, log_sigma: Array) -> Array:
        features = fourier_embedding(log_sigma / 4, self.size, scale=1.0)
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(features)[:, 0]


def _init(key: Key) -> Any:
    return _LinearInFourierFeatures().init(key, jnp.zeros(1, jnp.float32))["params"]


def _apply(params: Any, log_sigma: Array) -> Any:
    """u(log sigma), [batch]; 0 before training."""
    return _LinearInFourierFeatures().apply({"params": params}, log_sigma)


LogVariance = Network(_init, _apply)
