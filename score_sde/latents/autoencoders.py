"""Autoencoders as networks of a config: what they share, and three bottlenecks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.latents import codebook, fsq
from score_sde.latents.coder import Bottleneck, Coder
from score_sde.latents.convolutional import Decoder, Encoder
from score_sde.latents.posterior import Posterior, posterior_from_moments
from score_sde.networks.fitting import IMAGES, space_problems
from score_sde.networks.layers import Dense
from score_sde.networks.network import STATISTICS, part_of_network
from score_sde.networks.options import (
    DropoutRate,
    Dtype,
    Size,
    Widths,
)
from score_sde.rules import NonNegative, at_least, below, each
from score_sde.types import Array, Key, Params

Levels = Annotated[tuple[int, ...], each(NonNegative)]


class Autoencoder(nn.Module):
    """What every autoencoder has: as a network it maps images to reconstructions.

    A subclass has methods `encode`, `render` and `bottleneck`, as `Coder` says, and one
    `quantise` if it has a codebook.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    predicts_variance: ClassVar = False
    last_layer: ClassVar = ("decoder", "conv_out", "kernel")

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
        """What training decodes."""
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
        """What the encoder says of images."""
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


class Codebook(nn.Module):
    """The rows of a codebook; at first uniform from -1/codes to 1/codes."""

    num_codes: int
    dims: int

    def setup(self) -> None:
        """Make the rows."""
        bound = 1 / self.num_codes

        def uniform(key: Key, shape: tuple[int, ...]) -> Array:
            return jr.uniform(key, shape, jnp.float32, -bound, bound)

        self.embedding = self.param("embedding", uniform, (self.num_codes, self.dims))


class Statistics(nn.Module):
    """How often rows are chosen, and what may replace them; see `codebook`."""

    has_sums: bool

    @nn.compact
    def __call__(self, rows: Array) -> dict[str, Array]:
        """All of them by name, for a codebook of these rows."""
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        found = {
            "usage": self.param("usage", ones, rows.shape[:1], jnp.float32),
            "candidates": self.param("candidates", zeros, rows.shape, jnp.float32),
        }
        if self.has_sums:  # of a count of 1
            found["sums"] = self.param("sums", lambda _: rows)
        return found


class VQAutoencoder(Convolutional):
    """An autoencoder with a codebook (van den Oord et al. 2017; Esser et al. 2021).

    Args:
        codebook_size: number of codes.
        commitment: weight of the encoder's term in the loss of the codebook.
        legacy_loss: whether that weight is on the codebook's term, as in the published
            models; it is without meaning for a moving average.
        moving_average: whether the codebook follows the mean of the latents that chose
            each row instead of its gradient.
        dead_share: rows that are chosen less often than this share of the average are
            replaced by latents of the batch; 0 for never.
    """

    codebook_size: Size = 8192
    commitment: Annotated[float, NonNegative] = 0.25
    legacy_loss: bool = False
    moving_average: bool = False
    dead_share: Annotated[float, below(1)] = 0.0

    @property
    def num_codes(self) -> int:
        """Size of the codebook."""
        return self.codebook_size

    @property
    def has_statistics(self) -> bool:
        """Whether it counts how often codes are chosen."""
        return self.moving_average or self.dead_share > 0

    def setup(self) -> None:
        """Make the layers."""
        super().setup()
        size, dims = self.codebook_size, self.latent_channels
        self.quantize = Codebook(size, dims)
        if self.has_statistics:
            self.statistics = Statistics(self.moving_average)

    def codes(self, z: Array) -> Array:
        """The codes of latents."""
        return codebook.nearest(z, self.quantize.embedding)

    def quantise(self, z: Array) -> Array:
        """The rows of the codebook nearest to latents, with the latents' gradient."""
        if self.is_initializing() and self.has_statistics:
            self.statistics(self.quantize.embedding)
        rows = jnp.take(self.quantize.embedding, self.codes(z), axis=0)
        return codebook.straight_through(z, rows.astype(z.dtype))

    def bottleneck(self, key: Key, posterior: Posterior, num_dims: int) -> Bottleneck:
        """The nearest rows, and the loss of the codebook."""
        del num_dims
        z, embedding = posterior.mean, self.quantize.embedding
        codes = self.codes(z)
        rows = jnp.take(embedding, codes, axis=0).astype(z.dtype)
        if self.moving_average:
            error = codebook.codebook_loss(z, rows, commitment=0.0, legacy=True)
            penalty = self.commitment * error
        else:
            penalty = codebook.codebook_loss(
                z, rows, commitment=self.commitment, legacy=self.legacy_loss
            )
        if self.has_statistics:
            old = self.statistics(embedding)
            new = codebook.next_statistics(key, old, z, codes)
            term = codebook.statistics_term(old, new)
            penalty = penalty + term.astype(penalty.dtype)
        return Bottleneck(codebook.straight_through(z, rows), penalty)

    @nn.nowrap
    @part_of_network
    def project(self, params: Params) -> Params:
        """The parameters with dead rows revived, and the rows of moving averages."""
        if not self.has_statistics:
            return params
        old, rows = params[STATISTICS], params["quantize"]["embedding"]
        new, rows = codebook.revived(old, rows, dead_share=self.dead_share)
        return {**params, STATISTICS: new, "quantize": {"embedding": rows}}


class FSQAutoencoder(Convolutional):
    """An autoencoder whose latents are rounded (Mentzer et al. 2024).

    Args:
        levels: of each channel of the latents; their product is the number of codes.
        latent_channels: as many as there are levels; 0 for that.
    """

    levels: Annotated[tuple[int, ...], each(at_least(2), at_least_one=True)] = (
        *(8, 5, 5),
        5,
    )

    @property
    def num_codes(self) -> int:
        """Number of codes."""
        return int(np.prod(self.levels))

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for images of this shape."""
        found = super().problems(shape)
        if self.latent_channels != len(self.levels):
            found.append(
                f"latent_channels is {self.latent_channels}; it must be "
                f"{len(self.levels)}, as many as there are levels"
            )
        return found

    def encode(self, x: Array, deterministic: bool = True) -> Posterior:
        """The latents of images, from -1 to 1, before they are rounded."""
        return Posterior(fsq.bounded(self.moments(x, deterministic), self.levels))

    def codes(self, z: Array) -> Array:
        """The codes of latents."""
        return fsq.code_of(fsq.rounded(z, self.levels), self.levels)

    def quantise(self, z: Array) -> Array:
        """Latents rounded to their levels, with the latents' gradient."""
        return fsq.rounded(z, self.levels)


Make = Callable[..., Autoencoder]
