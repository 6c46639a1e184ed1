"""The Gaussian posterior of a latent given an image, and what training asks of it.

z = mean + std n,   KL(q || N(0, I)) = 1/2 sum(mean^2 + var - 1 - log var)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import example_keys, per_example, sum_over_data
from score_sde.types import Array, Key

LOG_VARIANCES = (-30.0, 20.0)
"""Log-variances are clamped to this range, so that neither end overflows float32."""


class Posterior(NamedTuple):
    """A latent given an image: an independent Gaussian for every number of it."""

    mean: Array
    """[batch, *latent]."""
    log_variance: Array | None = None
    """[batch, *latent]; None for an encoder without noise."""

    @property
    def std(self) -> Array:
        """The standard deviations, [batch, *latent]; 0 for an encoder without noise."""
        if self.log_variance is None:
            return jnp.zeros_like(self.mean)
        return jnp.exp(0.5 * self.log_variance)

    def sample(self, key: Key) -> Array:
        """Draw a latent for each example, a function of (key, index of the example)."""
        if self.log_variance is None:
            return self.mean
        keys = example_keys(key, len(self.mean))
        return self.mean + self.std * per_example(jr.normal, keys, self.mean)

    def divergence(self) -> Array:
        """The divergence from N(0, I) in nats, [batch]; 0 without noise."""
        if self.log_variance is None:
            return jnp.zeros(len(self.mean), self.mean.dtype)
        terms = self.mean**2 + jnp.exp(self.log_variance) - 1 - self.log_variance
        return 0.5 * sum_over_data(terms)

    def log_prob(self, z: Array) -> Array:
        """The log-density of a latent in nats, [batch].

        Raises:
            ValueError: without noise, where there is no density.
        """
        if self.log_variance is None:
            raise ValueError(
                "the encoder has no noise: its latents have no density. Choose an "
                "autoencoder with a posterior, such as 'kl_autoencoder'."
            )
        squares = (z - self.mean) ** 2 * jnp.exp(-self.log_variance)
        terms = squares + self.log_variance + math.log(2 * math.pi)
        return -0.5 * sum_over_data(terms)


def posterior_from_moments(moments: Array) -> Posterior:
    """The posterior whose mean and log-variance are the halves of the channels.

    Source: Kingma and Welling 2014; the clamp is that of Rombach et al. 2022.
    """
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return Posterior(mean, jnp.clip(log_variance, *LOG_VARIANCES))
