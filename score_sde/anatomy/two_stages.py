"""A cascade in two dimensions: a small picture first, the whole one given it.

Prince 2023, sec. 18.6.2, figure 18.11. The whole picture is x = (x1, x2), a mixture;
the small one is y = (x1 + x2) / 2 with augmentation noise, which hides from the second
stage what the first one does badly (Ho et al. 2022).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from score_sde.anatomy.lines import (
    Components,
    as_grid,
    integral,
    is_covered,
    log_normal,
    normal_rows,
    widths,
)
from score_sde.arrays import as_float, matmul
from score_sde.oracles import GaussianMixture
from score_sde.types import Array


class Cascade(NamedTuple):
    """The error of a cascade whose first stage is not right."""

    small: Float[Array, " points"]
    """The true density of y with its noise on the grid."""
    drawn: Float[Array, " points"]
    """The density of y with its noise that the first stage draws."""
    ratio: Float[Array, " points"]
    """Density of the cascade's x over the true one, a function of (x1 + x2) / 2."""
    total_variation: Float[Array, ""]
    """Between the cascade's law of x and the true one; NaN where the grid misses more
    than a thousandth of either density of y."""


def given_average(
    oracle: GaussianMixture, y: ArrayLike, noise: float
) -> GaussianMixture:
    """The law of x given one small picture y, a mixture again.

    Args:
        oracle: the law of x, of two dimensions.
        y: the small picture, a scalar.
        noise: the standard deviation of the augmentation noise, > 0.

    Raises: ValueError for a mixture of other dimensions, and noise that is not > 0.
    """
    means, covariances, weights, along, spread = _small(oracle, noise)
    gap = jnp.asarray(y, means.dtype) - means.mean(1)
    gain = along / spread[:, None]
    log_weights = jnp.log(weights) + log_normal(gap, jnp.zeros_like(gap), spread)
    return GaussianMixture(
        means + gain * gap[:, None],
        covariances - gain[:, :, None] * along[:, None, :],
        jax.nn.softmax(log_weights),
    )


def cascade(
    oracle: GaussianMixture, first_stage: ArrayLike, noise: float, grid: ArrayLike
) -> Cascade:
    """The law of x drawn by an exact second stage after a given first stage.

    The first stage draws y without noise from `first_stage`; noise is added, and x is
    drawn from the exact p(x given y). The ratio of its density to the true one depends
    on (x1 + x2) / 2 alone, so that the error is an integral over the line. It falls as
    the noise grows, which hides the mistakes of the first stage.

    Args:
        oracle: the law of x, of two dimensions.
        first_stage: density of the small pictures that are drawn, [points]; it is
            normalised.
        noise: the standard deviation of the augmentation noise, > 0.
        grid: rising points of the average, [points], with room for the noise.

    Raises: ValueError for a mixture of other dimensions, noise that is not > 0, and
        densities of another shape.
    """
    grid = as_grid(grid)
    means, _, weights, _, spread = _small(oracle, noise)
    parts = Components(weights, means.mean(1), spread)
    first = jnp.asarray(first_stage, grid.dtype)
    if first.shape != grid.shape:
        raise ValueError(
            f"first_stage has the shape {first.shape}; it must be {grid.shape}."
        )
    return Cascade(*_drawn(first, parts, jnp.asarray(noise, grid.dtype), grid))


@jax.jit
def _drawn(
    first: Array, parts: Components, noise: Array, grid: Array
) -> tuple[Array, ...]:
    """The fields of `Cascade`; parts are those of y with its noise."""
    kernel = normal_rows(grid, grid, jnp.full_like(grid, noise**2))  # [average, y]
    small = matmul(parts.weights, normal_rows(grid, parts.means, parts.variances))
    drawn = matmul(first / integral(first, grid) * widths(grid), kernel)
    # Where neither has any mass, nothing is drawn.
    quotient = jnp.where(small > 0, drawn / jnp.where(small > 0, small, 1.0), 0.0)
    ratio = matmul(kernel, quotient * widths(grid))
    free = parts.variances - noise**2
    average = matmul(parts.weights, normal_rows(grid, parts.means, free))
    error = integral(0.5 * (average * jnp.abs(ratio - 1)), grid)
    covered = is_covered(small, grid) & is_covered(drawn, grid)
    return small, drawn, ratio, jnp.where(covered, error, jnp.nan)


def _small(
    oracle: GaussianMixture, noise: float
) -> tuple[Array, Array, Array, Array, Array]:
    """Means, covariances and weights of x; its covariance with y; the variance of y."""
    means, covariances = as_float(oracle.means), as_float(oracle.covariances)
    if means.ndim != 2 or means.shape[1] != 2:
        raise ValueError(
            f"the mixture's means have the shape {means.shape}; a cascade is for two "
            "dimensions, [components, 2]."
        )
    if not noise > 0:
        raise ValueError(f"noise is {noise}; it must be > 0.")
    weights = as_float(oracle.weights)
    along = covariances.mean(2)
    return means, covariances, weights / weights.sum(), along, along.mean(1) + noise**2
