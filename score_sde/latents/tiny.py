"""TAESD: a small autoencoder distilled from that of Stable Diffusion, without norms.

Its latents are those of the large one after scaling, so that their scale is 1. Inside,
images are from 0 to 1.

Source: O. B. Bohan, TAESD (2023), the published architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from score_sde.latents.autoencoders import Autoencoder
from score_sde.latents.posterior import Posterior
from score_sde.networks.blocks import upsample
from score_sde.networks.options import Size
from score_sde.rules import Positive, each
from score_sde.types import Array

REACH = 3.0
"""The decoder squashes latents to this range by a hyperbolic tangent."""


class _Block(nn.Module):
    """Three convolutions with ReLU, beside the input, and a ReLU."""

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.relu(nn.Conv(self.channels, (3, 3), name="conv_0")(x))
        h = nn.relu(nn.Conv(self.channels, (3, 3), name="conv_2")(h))
        h = nn.Conv(self.channels, (3, 3), name="conv_4")(h)
        return nn.relu(h + x)


class _Encoder(nn.Module):
    latent_channels: int
    channels: int
    blocks: Sequence[int]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h, number = (x + 1) / 2, 0
        for level, count in enumerate(self.blocks):
            stride, name = 1 if level == 0 else 2, f"layers_{number}"
            convolve = nn.Conv(
                self.channels,
                (3, 3),
                strides=(stride, stride),
                padding=((1, 1), (1, 1)),
                use_bias=level == 0,
                name=name,
            )
            h, number = convolve(h), number + 1
            for _ in range(count):
                h = _Block(self.channels, name=f"layers_{number}")(h)
                number += 1
        return nn.Conv(self.latent_channels, (3, 3), name=f"layers_{number}")(h)


class _Decoder(nn.Module):
    out_channels: int
    channels: int
    blocks: Sequence[int]

    @nn.compact
    def __call__(self, z: Array) -> Array:
        h = jnp.tanh(z / REACH) * REACH
        h = nn.relu(nn.Conv(self.channels, (3, 3), name="layers_0")(h))
        number, last = 2, len(self.blocks) - 1  # a ReLU has a number too
        for level, count in enumerate(self.blocks):
            for _ in range(count):
                h = _Block(self.channels, name=f"layers_{number}")(h)
                number += 1
            if level == last:
                break
            number += 1  # as has the doubling
            h = nn.Conv(self.channels, (3, 3), use_bias=False, name=f"layers_{number}")(
                upsample(h)
            )
            number += 1
        h = nn.Conv(self.out_channels, (3, 3), name="conv_out")(h)
        return 2 * h - 1


class TinyAutoencoder(Autoencoder):
    """An autoencoder of convolutions and ReLUs alone, in the layout of TAESD.

    Args:
        shape: of one image, which the data give.
        latent_channels: channels of the latents.
        channels: of all layers.
        blocks: of the encoder on each level, from that of the image downwards.
        decoder_blocks: of the decoder on each level, from the lowest upwards.
    """

    shape: tuple[int, ...] = (512, 512, 3)
    latent_channels: Size = 4
    channels: Size = 64
    blocks: Annotated[tuple[int, ...], each(Positive, at_least_one=True)] = (1, 3, 3, 3)
    decoder_blocks: Annotated[tuple[int, ...], each(Positive, at_least_one=True)] = (
        *(3, 3, 3),
        1,
    )

    last_layer: ClassVar = ("decoder", "conv_out", "kernel")

    @property
    def factor(self) -> int:
        """By how much it divides the sides of an image."""
        return 2 ** (len(self.blocks) - 1)

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for images of this shape."""
        found = super().problems(shape)
        if len(self.decoder_blocks) != len(self.blocks):
            found.append(
                f"decoder_blocks is {self.decoder_blocks}; it must have "
                f"{len(self.blocks)} numbers, as blocks has"
            )
        return found

    def setup(self) -> None:
        """Make the layers."""
        self.encoder = _Encoder(self.latent_channels, self.channels, self.blocks)
        self.decoder = _Decoder(self.shape[-1], self.channels, self.decoder_blocks)

    def encode(self, x: Array, deterministic: bool = True) -> Posterior:
        """The latents of images, without noise."""
        del deterministic
        return Posterior(self.encoder(x))

    def render(self, z: Array, deterministic: bool = True) -> Array:
        """The images of latents."""
        del deterministic
        return self.decoder(z)
