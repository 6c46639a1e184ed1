"""Dequantisation: levels become points, and densities of points probabilities.

A density p gives a level k the probability P(k), its integral over the bin of k. With x
drawn from any density q(x given k) on that bin (Theis et al. 2016; Ho et al. 2019)

    log P(k) >= E[log p(x) - log q(x given k)]

and the logarithm of the mean of p / q over several draws is closer still. The bins of
all levels tile [-1, 1], so that P never counts anything twice: whatever p is, also the
density of data that are still noised at t_min, the bound is honest. What differs
between the q is how well p can follow them.

Points are x = xt / alpha, like data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from score_sde import data
from score_sde.arrays import example_keys, per_example, sum_over_data
from score_sde.types import Array, Key, Points, Scalar


class Dequantised(NamedTuple):
    """Points, and the density with which they are drawn."""

    x: Float[Array, "batch *dims"]
    """The points, [batch, *dims]."""
    log_density: Float[Array, " batch"]
    """log q(x given the levels) in nats, [batch]; 0 for data that are points."""


Dequantiser = Callable[..., Dequantised]
"""(key, values, *, num_levels, sigma) -> Dequantised, sigma the noise level at t_min.

The points of example i are a function of (key, i).
"""


def uniform(
    key: Key, values: Points, *, num_levels: int | None, sigma: Scalar
) -> Dequantised:
    """Draw points uniform on the bin (Uria et al. 2013), for models trained on such.

    Args:
        key: one key, or one per example.
        values: the data as they are stored, [batch, *dims].
        num_levels: the number of levels; None for data that are points.
        sigma: not used.
    """
    del sigma
    x = data.dequantise(key, values, num_levels=num_levels)
    width = 1.0 if num_levels is None else 2 / num_levels
    nats = -math.prod(x.shape[1:]) * math.log(width)
    return Dequantised(x, jnp.full(len(x), nats, x.dtype))


def truncated_normal(
    key: Key, values: Points, *, num_levels: int | None, sigma: Scalar
) -> Dequantised:
    """Draw noise of t_min around the centre, within the bin (Zheng 2023, eq. 15).

    It is for models trained on centres: p at t_min is a mixture of just these densities
    if the bin is many sigma wide, so that nothing is lost to the truncation at t_min.

    Args:
        key: one key, or one per example.
        values: the data as they are stored, [batch, *dims].
        num_levels: the number of levels; None for data that are points.
        sigma: the noise level at t_min, a scalar.
    """
    x0 = data.centres(values, num_levels=num_levels)
    if num_levels is None:
        return Dequantised(x0, jnp.zeros(len(x0), x0.dtype))
    sigma = jnp.asarray(sigma, x0.dtype)
    half = 1 / (num_levels * sigma)

    def draw(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jr.truncated_normal(key, -half, half, shape, dtype)

    eps = per_example(draw, example_keys(key, len(x0)), x0)
    log_norm = 0.5 * math.log(2 * math.pi) + jnp.log(sigma)
    inside = jnp.log(jax.lax.erf(half / math.sqrt(2)))
    x = data.within_bins(x0 + sigma * eps, values, num_levels=num_levels)
    return Dequantised(x, sum_over_data(-0.5 * eps**2 - log_norm - inside))


Flow = Callable[[Array, Array], tuple[Array, Array]]
"""(centres, logistic noise) -> (u in (0, 1), log q(u) in nats, [batch])."""


def variational(
    key: Key, values: Points, *, num_levels: int, flow: Flow
) -> Dequantised:
    """Draw points where in the bin a learned flow puts them (Ho et al. 2019, eq. 6).

    Args:
        key: one key, or one per example.
        values: the data as they are stored, [batch, *dims].
        num_levels: the number of levels.
        flow: the learned flow.
    """
    centres = data.centres(values, num_levels=num_levels)
    eps = per_example(jr.logistic, example_keys(key, len(values)), centres)
    u, log_density = flow(centres, eps)
    width = 2 / num_levels
    nats = log_density - math.prod(values.shape[1:]) * math.log(width)
    x = data.within_bins(centres + (u - 0.5) * width, values, num_levels=num_levels)
    return Dequantised(x, nats)


DEQUANTISERS: dict[str, Dequantiser] = {
    "uniform": uniform,
    "truncated_normal": truncated_normal,
}


DEQUANTISATIONS = (*DEQUANTISERS, "variational")
"""All names; "variational" needs a flow with parameters."""


def importance_weighted(
    log_ratios: Float[Array, "draws batch"],
) -> Float[Array, " batch"]:
    """Log of the mean of p / q over draws, [draws, batch] -> [batch] (Burda 2016).

    At least their mean in expectation, at most log P, and rising with the draws to it.
    It is for exact log-densities alone: the noise of a random trace would be averaged
    in the exponent, and raise the result above log P.
    """
    return jax.nn.logsumexp(log_ratios, axis=0) - math.log(len(log_ratios))
