"""Autoencoders whose encoder is trained already: a decoder for any representation.

The latents are the tokens of a network that was trained to understand images, DINOv2,
and only what makes images of them is learned (Zheng et al. 2025, RAE). They diffuse
well and have many channels, so that the denoiser must be as wide, and noise levels rise
with the square root of their numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.latents.autoencoders import Autoencoder
from score_sde.latents.posterior import Posterior
from score_sde.networks.attention import attend_to_self
from score_sde.networks.embeddings import position_table
from score_sde.networks.features import dinov2
from score_sde.networks.fitting import head_problems
from score_sde.networks.layers import Dense
from score_sde.networks.options import Size
from score_sde.resizing import antialias_matrix, cubic
from score_sde.rules import one_of
from score_sde.types import Array

ENCODERS: dict[str, Callable[[], dinov2.DINOv2]] = {
    f"dinov2_{size}{name}": partial(dinov2.vision_transformer, *of, num_registers=n)
    for name, n in (("", 0), ("_registers", 4))
    for size, of in dinov2.SIZES.items()
}
"""Name -> the module of an encoder, whose "patches" are the latents."""
EPS = 1e-6


class _Block(nn.Module):
    """Attention and a perceptron, each behind a norm and beside its input."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        h = nn.LayerNorm(EPS, name="norm1")(x)
        h = attend_to_self(Dense(3 * width, name="qkv")(h), self.num_heads)
        x = x + Dense(width, name="proj")(h)
        h = nn.LayerNorm(EPS, name="norm2")(x)
        h = nn.gelu(Dense(4 * width, name="fc1")(h))
        return x + Dense(width, name="fc2")(h)


class _Decoder(nn.Module):
    """A vision transformer from tokens to the pixels of their patches."""

    channels: int
    patch: int
    width: int
    depth: int
    num_heads: int

    @nn.compact
    def __call__(self, z: Array) -> Array:
        batch, rows, columns, _ = z.shape
        h = Dense(self.width, name="embed")(z).reshape(batch, -1, self.width)
        h = h + position_table(rows, columns, self.width).astype(h.dtype)
        for i in range(self.depth):
            h = _Block(self.num_heads, name=f"blocks_{i}")(h)
        h = nn.LayerNorm(EPS, name="norm")(h).reshape(batch, rows, columns, self.width)
        p = (self.patch, self.patch)
        return nn.ConvTranspose(self.channels, p, p, "VALID", name="conv_out")(h)


class RepresentationAutoencoder(Autoencoder):
    """A frozen encoder and a trained decoder (Zheng et al. 2025).

    The weights of the encoder are read when training begins, from the file
    `objective.encoder_weights`; they are then those of the run. Images are resized, by
    a bicubic kernel, so that a patch of theirs is one of the encoder's.

    Args:
        shape: of one image, which the data give.
        encoder: a name of `latents.representation.ENCODERS`.
        patch: side in pixels of what one latent stands for.
        width: of the decoder's tokens.
        depth: its number of blocks.
        num_heads: of its attention.
    """

    shape: tuple[int, ...] = (256, 256, 3)
    encoder: Annotated[str, one_of(ENCODERS)] = "dinov2_b14_registers"
    patch: Size = 16
    width: Size = 1152
    depth: Size = 28
    num_heads: Size = 16

    has_frozen_encoder: ClassVar = True

    @property
    def factor(self) -> int:
        """By how much it divides the sides of an image."""
        return self.patch

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for images of this shape."""
        found = super().problems(shape)
        if not found and shape[-1] not in (1, 3):
            found.append(f"encoder takes images of 1 or 3 channels, not {shape[-1]}")
        if self.width % 4:
            found.append(f"width is {self.width}; it must be a multiple of 4")
        return found + head_problems("num_heads", self.num_heads, [self.width])

    def setup(self) -> None:
        """Make the layers."""
        # Its name keeps it out of the optimiser: `networks.network.FROZEN_MODULE`.
        self.frozen = ENCODERS[self.encoder]()
        self.decoder = _Decoder(
            self.shape[-1], self.patch, self.width, self.depth, self.num_heads
        )

    def encode(self, x: Array, deterministic: bool = True) -> Posterior:
        """The tokens of images from -1 to 1, without noise."""
        del deterministic
        rows, columns = (side // self.patch for side in x.shape[1:3])
        resize = [
            antialias_matrix(side, dinov2.PATCH * count, cubic(-0.5), 2)
            for side, count in zip(x.shape[1:3], (rows, columns), strict=True)
        ]
        matrices = [jnp.asarray(matrix, x.dtype) for matrix in resize]
        h = jnp.einsum("ri,cj,nijk->nrck", *matrices, (x + 1) / 2)
        h = jnp.broadcast_to(h, (*h.shape[:3], 3))
        mean, std = (
            jnp.asarray(a, x.dtype)[None, None, None] for a in (dinov2.MEAN, dinov2.STD)
        )
        tokens: Any = self.frozen((h - mean) / std)["patches"]
        tokens = tokens.reshape(len(x), rows, columns, -1)
        return Posterior(jax.lax.stop_gradient(tokens.astype(x.dtype)))

    def render(self, z: Array, deterministic: bool = True) -> Array:
        """The images of latents."""
        del deterministic
        return self.decoder(z)
