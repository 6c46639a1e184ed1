"""Terms that the bounds of a chain and of an SDE share: prior, decoders, noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import log_ndtr
from jaxtyping import Float

from score_sde.arrays import example_keys, per_example, sum_over_data
from score_sde.types import Array, Key, Scalar


class Bound(NamedTuple):
    """Terms of the bound in nats, one row per example."""

    prior: Float[Array, " batch"]
    """L_T: what is left of x0 at the highest level, [batch]."""
    steps: Float[Array, "batch steps"]
    """[batch, steps], from the lowest level up."""
    decoder: Float[Array, " batch"]
    """L_0, [batch]."""
    sigma: Float[Array, "batch steps"]
    """The level that each step starts from, [batch, steps]."""
    squared_error: Float[Array, "batch steps"]
    """|x0 - D|^2 at that level, mean over the data, [batch, steps]."""

    @property
    def nats(self) -> Float[Array, " batch"]:
        """The bound: no less than -log p(x0) in expectation, [batch]."""
        return self.prior + self.steps.sum(1) + self.decoder


def prior_term(
    x0: Float[Array, "batch *dims"], sigma: Scalar, *, prior_variance: Scalar
) -> Float[Array, " batch"]:
    """KL of x0 + sigma eps given x0 to the prior N(0, prior_variance), [batch].

    Args:
        x0: clean data, [batch, *dims].
        sigma: the highest noise level, a scalar.
        prior_variance: a scalar.
    """
    ratio = jnp.asarray(sigma**2 / prior_variance, x0.dtype)
    mean = x0**2 / jnp.asarray(prior_variance, x0.dtype)
    return sum_over_data(0.5 * (mean + (ratio - 1 - jnp.log(ratio))))


def noise_at(
    key: Key, index: Array, x: Float[Array, "batch *dims"]
) -> Float[Array, "batch *dims"]:
    """Draw noise shaped like x that is a function of (key, example, index)."""
    keys = jax.vmap(lambda k: jr.fold_in(k, index))(example_keys(key, x.shape[0]))
    return per_example(jr.normal, keys, x)


Decoder = Callable[[Array, Array, Array], Array]
"""(x0, denoised, std) -> -log p(x0 given x_1) in nats, [batch].

std is a scalar or has the rank of x0.
"""


def gaussian_decoder(
    x0: Float[Array, "batch *dims"], denoised: Float[Array, "batch *dims"], std: Array
) -> Float[Array, " batch"]:
    """Score continuous data by the density of N(denoised, std^2) at x0, in nats."""
    z = (x0 - denoised) / std
    return sum_over_data(0.5 * z**2 + jnp.log(std) + 0.5 * math.log(2 * math.pi))


def no_decoder(
    x0: Float[Array, "batch *dims"], denoised: Array, std: Array
) -> Float[Array, " batch"]:
    """Leave the last term to whoever has all parts of the data."""
    del denoised, std
    return jnp.zeros(len(x0), x0.dtype)


def discretised_decoder(width: float) -> Decoder:
    """Make the decoder of levels: the mass of N(denoised, std^2) in the bin around x0.

    Args:
        width: the width of a bin, 2 / num_levels.
    """

    def decoder(x0: Array, denoised: Array, std: Array) -> Array:
        return -sum_over_data(bin_log_prob(x0, denoised, std, width=width))

    return decoder


def bin_log_prob(x: Array, mean: Array, std: Array, *, width: float) -> Array:
    """Logarithm of the mass of N(mean, std^2) within width / 2 of x.

    The first and the last bin in [-1, 1] are open to infinity, so that the masses of
    all levels sum to one (Ho et al. 2020, eq. 13). The normal distribution function
    is exact, and its differences are taken in the lower tail, where they don't cancel.

    Args:
        x: centres of bins that tile [-1, 1].
        mean: the mean, shaped like x.
        std: the standard deviation, of a shape that multiplies x.
        width: the width of a bin.
    """
    low, high = ((x + 0.5 * side * width - mean) / std for side in (-1, 1))
    upper = low + high > 0
    left, right = jnp.where(upper, -high, low), jnp.where(upper, -low, high)
    top = log_ndtr(right)
    inner = top + jnp.log(-jnp.expm1(log_ndtr(left) - top))
    # The outermost centres are at most half a width from the end, no others are.
    is_first, is_last = x - 0.75 * width < -1, x + 0.75 * width > 1
    return jnp.where(
        is_first, log_ndtr(high), jnp.where(is_last, log_ndtr(-low), inner)
    )


def level_log_prob(x0: Array, z: Array, std: Array, *, num_levels: int) -> Array:
    """Logarithm of the probability of a level given the noised centre of its bin.

    By Bayes' rule, with all levels alike before (Kingma et al. 2021, sec. 3.2).

    Args:
        x0: the centres of the bins, which tile [-1, 1].
        z: x0 + std eps.
        std: the deviation of the noise, of a shape that multiplies x0.
        num_levels: the number of levels.
    """

    def exponent(centre: Array) -> Array:
        return -0.5 * ((z - centre) / std) ** 2

    def add(total: Array, centre: Array) -> tuple[Array, None]:
        return jnp.logaddexp(total, exponent(centre)), None

    centres = (2 * jnp.arange(num_levels, dtype=z.dtype) + 1) / num_levels - 1
    total, _ = jax.lax.scan(add, exponent(centres[0]), centres[1:])
    return exponent(x0) - total
