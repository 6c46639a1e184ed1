"""A conditional flow from logistic noise to points within the bins of images.

Variational dequantisation (Ho et al. 2019, sec. 3.1): the points of level k are
k + u, with u in (0, 1) of a learned density given the whole image.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.types import Array, Key

ZEROS = nn.initializers.zeros


class ConditionalFlow(nn.Module):
    """A flow (centres, eps) -> (u in (0, 1), log q(u | image) in nats, [batch]).

    Affine, then couplings on the black and the white squares of a checkerboard in turn
    (Dinh et al. 2017), then the sigmoid. Each coupling sees the image and the other
    squares. Before training u is uniform, since eps is logistic.

    Args:
        channels: width of the convolutions.
        num_couplings: number of couplings.
    """

    channels: int = 24
    num_couplings: int = 4

    @nn.compact
    def __call__(self, centres: Array, eps: Array) -> tuple[Array, Array]:
        context = nn.silu(nn.Conv(self.channels, (3, 3))(centres))
        context = nn.silu(nn.Conv(self.channels, (3, 3))(context))
        y, log_density = eps, log_logistic(eps)
        squares = checkerboard(eps.shape[1:3])
        for i in range(self.num_couplings + 1):
            given = squares if i % 2 else ~squares
            moved = jnp.ones_like(given) if i == 0 else ~given
            seen = jnp.where(moved, 0, y) if i else jnp.zeros_like(y)
            h = jnp.concatenate([seen, context], axis=-1)
            h = nn.silu(nn.Conv(self.channels, (3, 3))(h))
            h = nn.Conv(2 * y.shape[-1], (3, 3), kernel_init=ZEROS)(h)
            shift, log_scale = jnp.split(h, 2, axis=-1)
            # Bounded, so that no coupling can lose half of the image to rounding.
            log_scale = jnp.tanh(log_scale)
            y = jnp.where(moved, y * jnp.exp(log_scale) + shift, y)
            log_density -= jnp.where(moved, log_scale, 0)
        # The slope of the sigmoid is the logistic density.
        log_density -= log_logistic(y)
        return nn.sigmoid(y), log_density.reshape(len(eps), -1).sum(1)


def log_logistic(x: Array) -> Array:
    """Log-density of the standard logistic distribution."""
    return nn.log_sigmoid(x) + nn.log_sigmoid(-x)


def checkerboard(sides: tuple[int, ...]) -> Array:
    """Squares of a checkerboard: whether row + column is even, [height, width, 1]."""
    row, column = (jnp.arange(n) for n in sides)
    return ((row[:, None] + column[None, :]) % 2 == 0)[:, :, None]


class Dequantiser:
    """The flow as two functions of its parameters."""

    @staticmethod
    def init(key: Key, shape: tuple[int, ...]) -> Any:
        """Parameters for images of a shape [height, width, channels]."""
        image = jnp.zeros((1, *shape), jnp.float32)
        return jax.jit(ConditionalFlow().init)(key, image, image)["params"]

    @staticmethod
    def apply(params: Any, centres: Array, eps: Array) -> Any:
        """Points in the bins and their log-density; see `ConditionalFlow`."""
        return ConditionalFlow().apply({"params": params}, centres, eps)
