"""DINOv2's vision transformers (Oquab et al. 2023; Darcet et al. 2024 with registers).

Input x / 255 less the mean, over the deviation, of ImageNet, sides multiples of 14.
"""

from __future__ import annotations

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_sde.networks.features.parts import conv
from score_sde.resizing import (
    antialias_matrix,
    centre_matrix,
    cubic,
)
from score_sde.rules import NonNegative, Positive
from score_sde.types import Array

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
EPS = 1e-6
PATCH = 14
SIZES = {"s14": (384, 12, 6), "b14": (768, 12, 12), "l14": (1024, 24, 16)}
SIZES |= {"g14": (1536, 40, 24)}
"""Width, depth and heads of the released networks."""
OFFSET = 0.1
"""What the released networks add to the sides when they resize position embeddings."""


class _Attention(nn.Module):
    num_heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, length, width = x.shape
        qkv = nn.Dense(3 * width, name="qkv")(x)
        qkv = qkv.reshape(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        weights = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
        h = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(weights), v)
        return nn.Dense(width, name="proj")(h.reshape(x.shape))


class _MLP(nn.Module):
    """Two layers with GELU, or SwiGLU's three (Shazeer 2020)."""

    gated: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        if self.gated:
            wide = (8 * width // 3 + 7) // 8 * 8
            gate, h = jnp.split(nn.Dense(2 * wide, name="w12")(x), 2, axis=-1)
            return nn.Dense(width, name="w3")(nn.silu(gate) * h)
        h = nn.gelu(nn.Dense(4 * width, name="fc1")(x), approximate=False)
        return nn.Dense(width, name="fc2")(h)


class _Scale(nn.Module):
    """One learned factor for each channel (Touvron et al. 2021)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma = self.param("gamma", nn.initializers.ones, x.shape[-1:], jnp.float32)
        return x * gamma[None, None]


class _Block(nn.Module):
    num_heads: int
    gated: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.LayerNorm(EPS, use_fast_variance=False, name="norm1")(x)
        x = x + _Scale(name="ls1")(_Attention(self.num_heads, name="attn")(h))
        h = nn.LayerNorm(EPS, use_fast_variance=False, name="norm2")(x)
        return x + _Scale(name="ls2")(_MLP(self.gated, name="mlp")(h))


class DINOv2(nn.Module):
    """Tokens after the last norm: of the class, of the patches, and the patches' mean.

    Outputs "class_token" and "patch_mean", [batch, width], and "patches", [batch,
    number, width], row by row.
    """

    width: Annotated[int, Positive] = 1024
    depth: Annotated[int, Positive] = 24
    num_heads: Annotated[int, Positive] = 16
    gated: bool = False
    num_registers: Annotated[int, NonNegative] = 0
    grid: Annotated[int, Positive] = 37
    """Side of the grid of position embeddings, in patches."""

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        zeros, width = nn.initializers.zeros, self.width
        class_token = self.param("cls_token", zeros, (1, 1, width), jnp.float32)
        positions = self.param(
            "pos_embed", zeros, (1, 1 + self.grid**2, width), jnp.float32
        )
        self.param("mask_token", zeros, (1, width), jnp.float32)
        embed = conv(width, PATCH, PATCH, bias=True, name="patch_embed.proj")
        h = embed(x)
        rows, columns = h.shape[1:3]
        h = h.reshape(len(x), rows * columns, width)
        h = jnp.concatenate([jnp.broadcast_to(class_token, (len(x), 1, width)), h], 1)
        h = h + self._resized(positions, rows, columns)
        if self.num_registers:
            shape = (1, self.num_registers, width)
            registers = self.param("register_tokens", zeros, shape, jnp.float32)
            registers = jnp.broadcast_to(registers, (len(x), *shape[1:]))
            h = jnp.concatenate([h[:, :1], registers, h[:, 1:]], axis=1)
        for i in range(self.depth):
            h = _Block(self.num_heads, self.gated, name=f"blocks.{i}")(h)
        h = nn.LayerNorm(EPS, use_fast_variance=False, name="norm")(h)
        patches = h[:, 1 + self.num_registers :]
        return {
            "class_token": h[:, 0],
            "patch_mean": patches.mean(1),
            "patches": patches,
        }

    def _resized(self, positions: Array, rows: int, columns: int) -> Array:
        """Position embeddings for a grid of patches."""
        if rows == columns == self.grid:
            return positions
        matrices = []
        for size in (rows, columns):
            if self.num_registers:
                matrix = antialias_matrix(self.grid, size, cubic(-0.5), 2)
            else:
                scale = (size + OFFSET) / self.grid
                matrix = centre_matrix(self.grid, size, cubic(-0.75), 2, scale=scale)
            matrices.append(matrix.astype(np.float32))
        grid = positions[0, 1:].reshape(self.grid, self.grid, self.width)
        grid = jnp.einsum("ri,cj,ijd->rcd", *matrices, grid)
        patches = grid.reshape(1, rows * columns, self.width)
        return jnp.concatenate([positions[:, :1], patches], axis=1)


def vision_transformer(
    width: int, depth: int, num_heads: int, *, num_registers: int = 0
) -> DINOv2:
    """The module of a size; the one of the largest width released, 1536, has gates."""
    return DINOv2(
        width, depth, num_heads, gated=width == 1536, num_registers=num_registers
    )
