"""The diffusion transformer, DiT, with its adaptive norms (Peebles and Xie 2023)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.arrays import as_labels
from score_sde.networks.attention import attend_to_self
from score_sde.networks.blocks import (
    add_told_later,
    positional_embedding,
    with_divergence,
)
from score_sde.networks.cond import require_condition
from score_sde.networks.embeddings import position_table
from score_sde.networks.fitting import IMAGES, space_problems
from score_sde.networks.layers import Dense
from score_sde.networks.options import AttentionKernel, Count, Dtype, Size
from score_sde.rules import Positive
from score_sde.types import NO_LABEL, Array, Key

ZEROS = nn.initializers.zeros
SMALL = nn.initializers.normal(0.02)
XAVIER = nn.initializers.xavier_uniform()
NOISE_FEATURES = 256


TENSOR_AXES = {"attn_qkv": 1, "attn_proj": 0, "mlp_fc1": 1, "mlp_fc2": 0}
"""Axis along which the kernel of a layer is cut for tensor parallelism: first the
outputs, then the inputs, so that one sum follows each pair (Shoeybi et al. 2019)."""


class Block(nn.Module):
    """Attention and a perceptron, each shifted, scaled and gated by the embedding."""

    num_heads: int
    mlp_ratio: float
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        parts = _modulation(embedding, 6, self.dtype)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        h = self._attention(_norm(x) * (1 + scale) + shift)
        x = x + gate * h.astype(x.dtype)
        h = _norm(x) * (1 + scale_mlp) + shift_mlp
        h = self._dense(int(self.mlp_ratio * x.shape[-1]), "mlp_fc1")(h)
        h = self._dense(x.shape[-1], "mlp_fc2")(nn.gelu(h, approximate=True))
        return x + gate_mlp * h.astype(x.dtype)

    def _attention(self, x: Array) -> Array:
        size = x.shape[-1]
        qkv = self._dense(3 * size, "attn_qkv")(x)
        h = attend_to_self(qkv, self.num_heads, implementation=self.attention)
        return self._dense(size, "attn_proj")(h)

    def _dense(self, size: int, name: str) -> nn.Dense:
        return Dense(size, dtype=self.dtype, kernel_init=XAVIER, name=name)


class DiT(nn.Module):
    """F(x, noise) for images or latents, noise = the step of a chain of 1,000.

    With `learn_sigma` the output has twice the channels of x: the noise, then what the
    variance of each step of the chain is interpolated by (Nichol and Dhariwal 2021).

    Args:
        patch_size: side of the squares of pixels that are one token.
        hidden_size: features of a token.
        depth: number of blocks.
        num_heads: heads of the attention.
        mlp_ratio: hidden features of each perceptron over those of a token.
        num_classes: number of classes in cond["label"]; 0 for none.
        null_class: whether there is a row for no class, label -1 or num_classes.
        learn_sigma: whether the output has channels of variances.
        dtype: dtype of products; "float32" for that of the input.
        attention: implementation, 'xla' or 'cudnn'.
        remat: whether the backward pass computes the inside of every block again.
    """

    reads: ClassVar = frozenset({"label", "ratio", "guidance", "divergence"})

    patch_size: Size = 2
    hidden_size: Size = 1152
    depth: Size = 28
    num_heads: Size = 16
    mlp_ratio: Annotated[float, Positive] = 4.0
    num_classes: Count = 0
    null_class: bool = True
    learn_sigma: bool = True
    dtype: Dtype = "float32"
    attention: AttentionKernel = "xla"
    remat: bool = False

    @property
    def predicts_variance(self) -> bool:
        """Whether the output has channels of variances."""
        return self.learn_sigma

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""
        if problems := space_problems(shape, IMAGES):
            return problems
        if shape[0] % self.patch_size or shape[1] % self.patch_size:
            problems.append(
                f"patch_size is {self.patch_size}; it must divide the sides, "
                f"{shape[:2]}"
            )
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            problems.append(
                f"hidden_size is {self.hidden_size}; it must be a multiple of 4 and of "
                f"num_heads, {self.num_heads}"
            )
        return problems

    @nn.compact
    def __call__(
        self,
        x: Array,
        noise: Array,
        cond: Any = None,
        deterministic: bool = True,  # noqa: ARG002 (it has no dropout)
    ) -> Array:
        dtype = None if self.dtype == "float32" else self.dtype
        batch, height, width, channels = x.shape
        p, size = self.patch_size, self.hidden_size
        rows, columns = height // p, width // p
        patches = nn.Conv(
            size,
            (p, p),
            (p, p),
            "VALID",
            dtype=dtype,
            kernel_init=_xavier_matrix,
            name="x_embedder",
        )
        h = patches(x).reshape(batch, rows * columns, size).astype(x.dtype)
        table = self.param("pos_embed", lambda _: position_table(rows, columns, size))
        h = h + jax.lax.stop_gradient(table).astype(x.dtype)
        embedding = self._embedding(noise, cond).astype(x.dtype)
        make = nn.remat(Block) if self.remat else Block
        options = (self.num_heads, self.mlp_ratio, dtype, self.attention)
        for i in range(self.depth):
            h = make(*options, name=f"blocks_{i}")(h, embedding)
        out = channels * (2 if self.learn_sigma else 1)
        final = Final(p * p * out, dtype, name="final_layer")
        pixels = final(h, embedding).reshape(batch, rows, columns, p, p, out)
        pixels = pixels.swapaxes(2, 3).reshape(batch, height, width, out)
        return with_divergence(pixels.astype(x.dtype), _norm(h), cond)

    def _embedding(self, noise: Array, cond: Any) -> Array:
        h = positional_embedding(noise, NOISE_FEATURES)
        h = nn.Dense(self.hidden_size, kernel_init=SMALL, name="t_embedder_mlp_0")(h)
        h = nn.silu(h)
        h = nn.Dense(self.hidden_size, kernel_init=SMALL, name="t_embedder_mlp_2")(h)
        if self.num_classes:
            require_condition(cond, "label")
            rows = self.num_classes + self.null_class
            table = nn.Embed(
                rows, self.hidden_size, embedding_init=SMALL, name="y_embedder"
            )
            label = as_labels(cond["label"], self.num_classes)
            label = jnp.where(label == NO_LABEL, self.num_classes, label)
            h += table(label).astype(h.dtype)
        h = add_told_later(h, cond)
        return nn.silu(h)


class Final(nn.Module):
    """The last norm, modulated, and the map of each token to its patch."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        shift, scale = _modulation(embedding, 2, self.dtype)
        linear = Dense(
            self.features, dtype=self.dtype, kernel_init=ZEROS, name="linear"
        )
        return linear(_norm(x) * (1 + scale) + shift)


def _modulation(embedding: Array, parts: int, dtype: Any) -> list[Array]:
    """Make the vectors that modulate all tokens, [batch, 1, size], zero at first."""
    size = embedding.shape[-1]
    linear = Dense(
        parts * size, dtype=dtype, kernel_init=ZEROS, name="adaLN_modulation"
    )
    return jnp.split(linear(embedding)[:, None].astype(embedding.dtype), parts, axis=-1)


def _norm(x: Array) -> Array:
    """Normalise each token over its features, without parameters (Ba et al. 2016)."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)


def _xavier_matrix(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """Initialise a convolution over whole patches as the matrix that it is."""
    matrix = XAVIER(key, (math.prod(shape[:-1]), shape[-1]), dtype)
    return matrix.reshape(shape)
