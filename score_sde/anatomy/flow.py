"""The probability flow of one dimension, known exactly by its quantiles.

A flow keeps the order of points, and carries each marginal into the next; in one
dimension that leaves one map: X(x; sigma -> s) = F_s^-1(F_sigma(x)), with F the
distribution functions of the noised mixture.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike
from jaxtyping import Float

from score_sde.anatomy.lines import Components, components, log_normal
from score_sde.arrays import as_float, is_traced
from score_sde.oracles import GaussianMixture
from score_sde.types import Array, Level

HALVINGS = 60
"""Halvings of a bracket of a few standard deviations: below the spacing of float64."""


class FlowLikelihood(NamedTuple):
    """Points along the flow, and what becomes of their density."""

    x: Float[Array, "levels points"]
    """The points at every level, [levels, points]."""
    log_density: Float[Array, "levels points"]
    """Log-density of the noised mixture at each of them, in nats."""
    log_stretch: Float[Array, "levels points"]
    """Logarithm of dX/dx, by how much the flow has stretched the line around x: the
    integral of its divergence. log_density + log_stretch is the same at all levels."""


def quantile_map(
    oracle: GaussianMixture, x: ArrayLike, sigma: Level, sigma_next: Level
) -> Float[Array, " points"]:
    """Carry x along the exact probability flow from level sigma to sigma_next.

    It is the encoder and decoder, the limit of DDIM in many steps and, down to level 0,
    the consistency function; for few-step models it is an oracle. Levels and x are
    those of x = xt / alpha, the state that denoisers see. Derivatives in x and in both
    levels are right.

    Args:
        oracle: the law of the data, of one dimension.
        x: states at level sigma, [points].
        sigma: a scalar or [points], >= 0.
        sigma_next: a scalar or [points], >= 0.

    Raises: ValueError for a mixture of more dimensions, for levels below 0, and for
        level 0 where a component has variance 0.

    Examples:
        The flow of a Gaussian scales distances to its mean:

        >>> from score_sde.oracles import Gaussian
        >>> unit = Gaussian(jnp.zeros(1), jnp.ones((1, 1)))
        >>> print(round(float(quantile_map(unit, [2.0], 3**0.5, 0.0)[0]), 5))
        1.0
    """
    x = as_float(x)
    if x.ndim != 1:
        raise ValueError(f"x has the shape {x.shape}; it must be [points].")
    parts = components(oracle, x.dtype)
    stds = [
        _stds(parts, name, level, x)
        for name, level in (("sigma", sigma), ("sigma_next", sigma_next))
    ]
    return _carried(x, parts, *stds)


@jax.jit
def _carried(
    x: Array, parts: Components, stds: Array, next_stds: Array
) -> Float[Array, " points"]:
    """The quantiles of the next level at the probabilities of x.

    Args:
        x: [points].
        parts: the components of the data.
        stds: of the noised components, [1 or points, components].
        next_stds: the same at the next level.
    """
    scaled = (x[:, None] - parts.means[None]) / stds
    below, above = (_log_tail(side * scaled, parts) for side in (1, -1))
    # From the nearer tail, where the logarithm has all its digits.
    sign = jnp.where(below < above, 1.0, -1.0).astype(x.dtype)
    wanted = jnp.where(sign > 0, below, above)

    def log_tail(y: Array) -> Array:
        scaled = sign[:, None] * (y[:, None] - parts.means[None]) / next_stds
        return _log_tail(scaled, parts)

    # The quantile lies between those of the components at the same probability.
    low = (parts.means[None] + next_stds * scaled.min(1, keepdims=True)).min(1)
    high = (parts.means[None] + next_stds * scaled.max(1, keepdims=True)).max(1)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        right = sign * (log_tail(middle) - wanted) < 0
        return jnp.where(right, middle, low), jnp.where(right, high, middle)

    ends = jax.lax.stop_gradient((low, high))
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    found = jax.lax.stop_gradient(0.5 * (low + high))
    # A Newton step leaves the root where it is, and has its derivative.
    tail, slope = jax.jvp(log_tail, (found,), (jnp.ones_like(found),))
    return found - (tail - wanted) / jax.lax.stop_gradient(slope)


def flow_likelihood(
    oracle: GaussianMixture, x: ArrayLike, sigmas: ArrayLike
) -> FlowLikelihood:
    """Follow the density of points along the exact flow.

    The log-density of a point is that of its image at any level plus the logarithm of
    the stretch in between: the change of variables behind exact likelihoods.

    Args:
        oracle: the law of the data, of one dimension.
        x: states at level sigmas[0], [points].
        sigmas: levels in any order, [levels].

    Raises: ValueError for sigmas that are no row.
    """
    x = as_float(x)
    levels = jnp.asarray(sigmas, x.dtype)
    if levels.ndim != 1 or not len(levels):
        raise ValueError(f"sigmas has the shape {levels.shape}; it must be [levels].")
    parts = components(oracle, x.dtype)

    def at(level: Array) -> tuple[Array, Array, Array]:
        y, stretch = jax.jvp(
            lambda x: quantile_map(oracle, x, levels[0], level),
            (x,),
            (jnp.ones_like(x),),
        )
        stds = jnp.sqrt(parts.variances + level**2)
        each = log_normal(
            *jnp.broadcast_arrays(y[:, None], parts.means[None], stds[None] ** 2)
        )
        nats = jax.nn.logsumexp(each + jnp.log(parts.weights)[None], axis=1)
        return y, nats, jnp.log(stretch)

    return FlowLikelihood(*jax.lax.map(at, levels))


def _stds(parts: Components, name: str, level: Level, x: Array) -> Array:
    """Standard deviations of the noised components, [1 or points, components]."""
    level = jnp.asarray(level, x.dtype)
    if level.shape not in ((), x.shape):
        raise ValueError(
            f"{name} has the shape {level.shape}; it must be a scalar or {x.shape}."
        )
    if not is_traced((level, parts.variances)):
        lowest = float(np.min(level, initial=np.inf))
        if lowest < 0:
            raise ValueError(f"{name} is {lowest}; it must be >= 0.")
        if lowest == 0 and not float(np.min(parts.variances)):
            raise ValueError(
                f"{name} is 0, where a component of variance 0 has no quantiles."
            )
    return jnp.sqrt(parts.variances[None] + level.reshape(-1, 1) ** 2)


def _log_tail(scaled: Array, parts: Components) -> Array:
    """Logarithm of the mixture's probability below, [points].

    Args:
        scaled: distance to each mean in standard deviations, [points, components].
        parts: the components, whose weights are used.
    """
    return jax.nn.logsumexp(log_ndtr(scaled) + jnp.log(parts.weights)[None], axis=1)
