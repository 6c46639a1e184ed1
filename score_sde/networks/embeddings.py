"""Embeddings of the noise and the condition in the published U-Nets."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import as_labels
from score_sde.networks.cond import require_condition
from score_sde.types import Array


def sine_embedding(noise: Array, size: int) -> Array:
    """Sines and cosines at frequencies from 1 to exactly 1e-4: [batch, size].

    The program of Ho et al. 2020 has it; `blocks.positional_embedding` stops short of
    1e-4 and has the cosines first.
    """
    half = size // 2
    frequencies = 10_000.0 ** -(np.arange(half) / (half - 1))
    angles = noise[:, None] * jnp.asarray(frequencies, noise.dtype)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def position_table(rows: int, columns: int, size: int) -> Array:
    """Sines and cosines of the column, then of the row: [1, rows * columns, size].

    The size is a multiple of 4.
    """
    frequencies = 10_000.0 ** -(np.arange(size // 4) / (size / 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    waves = [
        wave(position.reshape(-1, 1) * frequencies)
        for position in (column, row)
        for wave in (np.sin, np.cos)
    ]
    return jnp.asarray(np.concatenate(waves, axis=1)[None], jnp.float32)


class FourierFeatures(nn.Module):
    """Sines and cosines of 2 pi f noise, f ~ N(0, scale^2) never trained.

    The output is [batch, 2 size]. In Song et al. 2021, app. H, noise is log(sigma).
    """

    size: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, noise: Array) -> Array:
        init = nn.initializers.normal(self.scale)
        freqs = self.param("freqs", init, (self.size,), jnp.float32)
        freqs = jax.lax.stop_gradient(freqs).astype(noise.dtype)
        angles = 2 * math.pi * noise[:, None] * freqs[None]
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def conditions(
    cond: Any, like: Array, *, num_classes: int, vector_dims: int, augment_dims: int
) -> dict[str, Array]:
    """The parts of a condition as vectors, [batch, size] of the type of `like`.

    A label becomes a one-hot vector, and -1, for no class, all zeros. "augment" may be
    absent, as it is when samples are drawn, and is then zeros.
    """
    parts = {}
    if num_classes:
        require_condition(cond, "label")
        labels = as_labels(cond["label"], num_classes)
        parts["label"] = jax.nn.one_hot(labels, num_classes, dtype=like.dtype)
    if vector_dims:
        require_condition(cond, "vector")
        parts["vector"] = cond["vector"].astype(like.dtype)
    if augment_dims:
        zeros = jnp.zeros((like.shape[0], augment_dims), like.dtype)
        augment = zeros if cond is None else cond.get("augment", zeros)
        parts["augment"] = augment.astype(like.dtype)
    return parts
