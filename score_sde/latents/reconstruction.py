"""Errors of reconstructed images: of pixels, of features, and under turning.

    nll = error exp(-s) + s,    error = |x - r| + w d(x, r) or (x - r)^2 + w d(x, r)

with one scale s of all pixels: up to a constant the Laplace density at scale e^s, or
twice the Gaussian one at variance e^s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import example_keys, expand_like, flat
from score_sde.types import Array, Key

Distance = Callable[[Array, Array], Array]
"""(images, reconstructions) -> how different they look, [batch]."""
ERRORS: dict[str, Callable[[Array, Array], Array]] = {
    "l1": lambda x, r: jnp.abs(x - r),
    "l2": lambda x, r: (x - r) ** 2,
}
"""Name -> the error of every number of an image."""
LENGTH_EPS = 1e-10


def errors(
    x: Array,
    reconstruction: Array,
    *,
    kind: str,
    distance: Array | None = None,
    distance_weight: float = 1.0,
) -> Array:
    """The error of every number of an image, with that of its features added to each.

    Args:
        x: images [batch, height, width, channels].
        reconstruction: alike.
        kind: a name in `ERRORS`.
        distance: of the features, [batch].
        distance_weight: its weight.
    """
    found = ERRORS[kind](x, reconstruction)
    if distance is None:
        return found
    return found + expand_like(distance_weight * distance, found)


def negative_log_likelihood(error: Array, log_scale: Array) -> Array:
    """error exp(-s) + s, of errors of any shape and one log-scale s."""
    return error * jnp.exp(-log_scale) + log_scale


def feature_distance(layers: Callable[[Array], Sequence[Array]]) -> Distance:
    """The distance of features, each scaled to length 1 over channels: [batch].

    The mean over positions and layers of squared distances; LPIPS without its learned
    weights of channels (Zhang et al. 2018, eq. 1).

    Args:
        layers: images -> features [batch, height, width, channels] of each layer.
    """

    def unit(h: Array) -> Array:
        return h / jnp.sqrt((h**2).sum(-1, keepdims=True) + LENGTH_EPS)

    def distance(x: Array, y: Array) -> Array:
        pairs = zip(layers(x), layers(y), strict=True)
        parts = [flat(((unit(a) - unit(b)) ** 2).sum(-1)).mean(1) for a, b in pairs]
        return jnp.stack(parts).mean(0)

    return distance


def transformed(key: Key, x: Array, z: Array, *, shrink: int) -> tuple[Array, Array]:
    """Turn images and their latents alike: each by a random multiple of 90 degrees.

    Images that are not square are turned by 0 or 180 degrees. Which, is a function of
    (key, index of the example). EQ-VAE trains a decoder on these pairs (Kouzelis et al.
    2025, eq. 3).

    Args:
        key: of the step.
        x: images [batch, height, width, channels].
        z: their latents.
        shrink: by how much both are made smaller, by means of blocks; it divides the
            sides of the latents.
    """
    is_square = x.shape[1] == x.shape[2]
    turns = jax.vmap(lambda k: jr.randint(k, (), 0, 4))(example_keys(key, len(x)))
    turns = turns if is_square else 2 * (turns % 2)

    def turned(a: Array) -> Array:
        out = a
        for number in (1, 2, 3) if is_square else (2,):
            chosen = (turns == number).reshape(-1, 1, 1, 1)
            out = jnp.where(chosen, jnp.rot90(a, number, axes=(1, 2)), out)
        return _smaller(out, shrink)

    return turned(x), turned(z)


def _smaller(a: Array, factor: int) -> Array:
    if factor == 1:
        return a
    batch, height, width, channels = a.shape
    blocks = (height // factor, factor, width // factor, factor)
    return a.reshape(batch, *blocks, channels).mean((2, 4))
