"""Autoencoders whose latents are quantised: by a codebook, or on a grid."""

from __future__ import annotations

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.latents import codebook, fsq
from score_sde.latents.autoencoders import Convolutional
from score_sde.latents.coder import Bottleneck
from score_sde.latents.posterior import Posterior
from score_sde.networks.network import STATISTICS, part_of_network
from score_sde.networks.options import Size
from score_sde.rules import NonNegative, at_least, below, each
from score_sde.types import Array, Key, Params

Levels = Annotated[tuple[int, ...], each(NonNegative)]


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
    """Counts of how rows are chosen, and what may replace them; see `codebook`."""

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
