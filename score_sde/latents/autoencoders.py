"""Autoencoders as networks of a config: what they share, and three bottlenecks."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from score_sde.latents.coder import Bottleneck, Coder
from score_sde.latents.convolutional import Decoder, Encoder
from score_sde.latents.posterior import Posterior, posterior_from_moments
from score_sde.networks.fitting import IMAGES, space_problems
from score_sde.networks.layers import Dense
from score_sde.networks.network import part_of_network
from score_sde.networks.options import (
    DropoutRate,
    Dtype,
    Size,
    Widths,
)
from score_sde.rules import NonNegative, each
from score_sde.types import Array, Key, Params

Levels = Annotated[tuple[int, ...], each(NonNegative)]


class Autoencoder(nn.Module):
    """Base of every autoencoder: as a network it maps images to reconstructions.

    A subclass has methods `encode`, `render` and `bottleneck`, as `Coder` says, and one
    `quantise` if it has a codebook.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    predicts_variance: ClassVar = False
    last_layer: ClassVar = ("decoder", "conv_out", "kernel")
    has_frozen_encoder: ClassVar = False

    @property
    def factor(self) -> int:
        """By how much it divides the sides of an image."""
        raise NotImplementedError

    @property
    def num_codes(self) -> int:
        """Size of the codebook; 0 without one."""
        return 0

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for images of this shape."""
        if found := space_problems(shape, IMAGES):
            return found
        sides = shape[:-1]
        if any(side % self.factor for side in sides):
            return [
                f"it divides the sides of an image by {self.factor}; those of the data "
                f"are {sides}"
            ]
        return []

    def __call__(
        self, x: Array, noise: Any = None, cond: Any = None, deterministic: bool = True
    ) -> Array:
        """The reconstruction of images from the means of their latents."""
        del noise, cond
        return self.decode(self.encode(x, deterministic).mean)

    def encode(self, x: Array, deterministic: bool = True) -> Posterior:
        """The posterior of the latents of images."""
        raise NotImplementedError

    def quantise(self, z: Array) -> Array:
        """Latents as the decoder knows them: unchanged without a codebook."""
        return z

    def codes(self, z: Array) -> Array:
        """The codes of latents."""
        raise NotImplementedError

    def render(self, z: Array, deterministic: bool = True) -> Array:
        """The images of latents that the bottleneck gave."""
        raise NotImplementedError

    def decode(self, z: Array) -> Array:
        """The images of any latents."""
        return self.render(self.quantise(z))

    def bottleneck(self, key: Key, posterior: Posterior, num_dims: int) -> Bottleneck:
        """Return what training decodes."""
        del key, num_dims
        zeros = jnp.zeros(len(posterior.mean), posterior.mean.dtype)
        return Bottleneck(self.quantise(posterior.mean), zeros)

    @nn.nowrap
    @part_of_network
    def parts(self) -> Coder:
        """The functions of the autoencoder."""
        call = partial(_called, self)
        return Coder(
            encode=partial(call, "encode"),
            decode=partial(call, "decode"),
            bottleneck=partial(call, "bottleneck"),
            render=partial(call, "render"),
            codes=partial(call, "codes") if self.num_codes else None,
            num_codes=self.num_codes,
            factor=self.factor,
            last_layer=self.last_layer,
            frozen=self.has_frozen_encoder,
        )


def _called(
    module: nn.Module,
    method: str,
    params: Params,
    *arguments: Any,
    dropout_key: Key | None = None,
) -> Any:
    options = {} if dropout_key is None else {"deterministic": False}
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return module.apply(
        {"params": params}, *arguments, method=method, rngs=rngs, **options
    )


class Convolutional(Autoencoder):
    """The architecture of Rombach et al. 2022, whose bottleneck a subclass has.

    Args:
        shape: of one image, which the data give.
        latent_channels: channels of the latents.
        channels: of level 0, times its multiplier.
        multipliers: of the channels, one for each level; n levels divide the sides by
            2^(n-1).
        blocks_per_level: residual blocks of the encoder on each level; the decoder has
            one more.
        attention_levels: levels whose blocks are followed by attention; 0 has the sides
            of the image.
        mid_attention: whether there is attention on the lowest level.
        groups: of the norms, which divide all channels.
        quant_conv: whether there are linear maps on both sides of the latents.
        dropout: rate inside the residual blocks.
        dtype: of the products; norms, logits of attention and the last layers of both
            halves are float32.
    """

    shape: tuple[int, ...] = (256, 256, 3)
    latent_channels: Size = 4
    channels: Size = 128
    multipliers: Widths = (1, 2, 4, 4)
    blocks_per_level: Size = 2
    attention_levels: Levels = ()
    mid_attention: bool = True
    groups: Size = 32
    quant_conv: bool = True
    dropout: DropoutRate = 0.0
    dtype: Dtype = "float32"

    moments_per_latent: ClassVar = 1

    @property
    def factor(self) -> int:
        """By how much it divides the sides of an image."""
        return 2 ** (len(self.multipliers) - 1)

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for images of this shape."""
        found = super().problems(shape)
        last = len(self.multipliers) - 1
        found += [
            f"attention_levels has {level}; choose from 0 to {last}"
            for level in self.attention_levels
            if level > last
        ]
        widths = sorted({self.channels * m for m in self.multipliers} | {self.channels})
        found += [
            f"groups is {self.groups}; it must divide the {width} channels of a level"
            for width in widths
            if width % self.groups
        ]
        return found

    def setup(self) -> None:
        """Make the layers."""
        latent = self.moments_per_latent * self.latent_channels
        plan: dict[str, Any] = {
            "channels": self.channels,
            "multipliers": self.multipliers,
            "blocks_per_level": self.blocks_per_level,
            "attention_levels": self.attention_levels,
            "mid_attention": self.mid_attention,
            "groups": self.groups,
            "dropout": self.dropout,
            # Without bfloat16, the products have the type of the input.
            "dtype": None if self.dtype == "float32" else jnp.dtype(self.dtype),
        }
        self.encoder = Encoder(latent, **plan)
        self.decoder = Decoder(self.shape[-1], **plan)
        if self.quant_conv:
            self.quant = Dense(latent)
            self.post_quant = Dense(self.latent_channels)

    def moments(self, x: Array, deterministic: bool = True) -> Array:
        """Encode images to what their latents are drawn by."""
        h = self.encoder(x, deterministic)
        return self.quant(h) if self.quant_conv else h

    def encode(self, x: Array, deterministic: bool = True) -> Posterior:
        """The posterior of the latents of images."""
        return Posterior(self.moments(x, deterministic))

    def render(self, z: Array, deterministic: bool = True) -> Array:
        """The images of latents that the bottleneck gave."""
        h = self.post_quant(z) if self.quant_conv else z
        return self.decoder(h, deterministic)


class KLAutoencoder(Convolutional):
    """An autoencoder whose latents are drawn from a Gaussian (Rombach et al. 2022).

    Args:
        kl_weight: of the divergence from N(0, I) in nats beside the error summed over
            an image; it is so small that N(0, I) gives no images.
    """

    kl_weight: Annotated[float, NonNegative] = 1e-6

    moments_per_latent: ClassVar = 2

    def encode(self, x: Array, deterministic: bool = True) -> Posterior:
        """The posterior of the latents of images."""
        return posterior_from_moments(self.moments(x, deterministic))

    def bottleneck(self, key: Key, posterior: Posterior, num_dims: int) -> Bottleneck:
        """A draw of the posterior; losses are means over the numbers of an image."""
        penalty = (self.kl_weight / num_dims) * posterior.divergence()
        return Bottleneck(posterior.sample(key), penalty)
