"""Densities on a grid of the real line, and the checks that all pictures share."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from score_sde import schedules
from score_sde.arrays import as_float, matmul
from score_sde.oracles import GaussianMixture
from score_sde.types import Array

MASS_TOLERANCE = 1e-3
"""How much of a density a grid may miss before what is computed on it is NaN."""


class Chain(NamedTuple):
    """A chain's tables, made on the host in float64."""

    betas: np.ndarray
    """The variance that each step adds, [T]; beta_t is betas[t - 1]."""
    abar: np.ndarray
    """The squared scale of the data at t = 0 ... T, [T + 1]."""

    @property
    def num_steps(self) -> int:
        """The number of steps, T."""
        return len(self.betas)

    @property
    def sigmas(self) -> np.ndarray:
        """The noise level relative to the data at t = 0 ... T, [T + 1]."""
        return np.append(0.0, schedules.levels(self.betas))


class Components(NamedTuple):
    """A mixture of normals on the real line, [components] each."""

    weights: Array
    """Probabilities, of sum 1."""
    means: Array
    variances: Array


def chain_of(betas: ArrayLike) -> Chain:
    """The tables of a chain.

    Raises: ValueError for betas that are no row, or not between 0 and 1.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not len(betas):
        raise ValueError(
            f"betas has the shape {betas.shape}; it must be [steps], at least one."
        )
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"betas is {betas}; each must be > 0 and < 1.")
    return Chain(betas, np.append(1.0, schedules.alphas_cumprod(betas)))


def check_time(name: str, t: int, low: int, high: int) -> None:
    """Refuse a time that is no step of the chain.

    Raises: ValueError unless low <= t <= high.
    """
    if not low <= t <= high:
        raise ValueError(f"{name} is {t}; it must be from {low} to {high}.")


def as_grid(grid: ArrayLike) -> Float[Array, " points"]:
    """A grid as floats.

    Raises: ValueError for a grid that is no row of rising points, unless it is traced.
    """
    grid = as_float(grid)
    rises = grid.ndim == 1 and len(grid) > 1
    if rises and not isinstance(grid, jax.core.Tracer):
        rises = bool((np.diff(np.asarray(grid)) > 0).all())
    if not rises:
        raise ValueError(
            f"grid has the shape {grid.shape}; it must be a row of rising points."
        )
    return grid


def components(oracle: GaussianMixture, dtype: jnp.dtype) -> Components:
    """The components of a mixture of one dimension.

    Raises: ValueError for a mixture of more dimensions.
    """
    means = jnp.asarray(oracle.means)
    if means.ndim != 2 or means.shape[1] != 1:
        raise ValueError(
            f"the mixture's means have the shape {means.shape}; anatomy is for one "
            "dimension, [components, 1]."
        )
    weights = jnp.asarray(oracle.weights, dtype)
    variances = jnp.asarray(oracle.covariances)[:, 0, 0]
    return Components(
        weights / weights.sum(),
        jnp.asarray(means[:, 0], dtype),
        jnp.asarray(variances, dtype),
    )


@jax.jit
def widths(grid: Array) -> Array:
    """The trapezoid rule's weight of each point of a grid, [points]."""
    half = 0.5 * jnp.diff(grid)
    none = jnp.zeros_like(half[:1])
    return jnp.concatenate([half, none]) + jnp.concatenate([none, half])


def integral(values: Array, grid: Array) -> Array:
    """Integrate functions over a grid, [*functions, points]: [*functions]."""
    return matmul(values, widths(grid))


def is_covered(density: Array, grid: Array) -> Array:
    """Whether a grid has almost all mass of a density, [*laws, points]: [*laws]."""
    return jnp.abs(integral(density, grid) - 1) < MASS_TOLERANCE


def log_normal(x: Array, mean: Array, variance: Array) -> Array:
    """Log-density of a normal law; all arguments have one shape or broadcast."""
    return -0.5 * ((x - mean) ** 2 / variance + jnp.log(2 * math.pi * variance))


@jax.jit
def normal_rows(grid: Array, mean: Array, variance: Array) -> Array:
    """Densities of normal laws on a grid, [*laws, points].

    A law of variance 0 is a bar of area 1 on the point next to its mean.

    Args:
        grid: [points].
        mean: the means, of any shape.
        variance: the variances, shaped like the means.
    """
    along = grid.reshape((1,) * mean.ndim + (-1,))
    mean, variance = mean[..., None], variance[..., None]
    is_bar = variance == 0
    smooth = jnp.exp(log_normal(along, mean, jnp.where(is_bar, 1.0, variance)))
    nearest = jnp.argmin(jnp.abs(along - mean), axis=-1)
    bar = jax.nn.one_hot(nearest, len(grid), dtype=grid.dtype)
    bar = bar / widths(grid).reshape(along.shape)
    return jnp.where(is_bar, bar, smooth)


@jax.jit
def noised_density(
    oracle: GaussianMixture, alpha: Array, sigma: Array, grid: Array
) -> Array:
    """Density of z = alpha (x + sigma eps) on a grid, [points]."""
    # In x = z / alpha, whose density is alpha times as large.
    return jnp.exp(oracle.log_prob((grid / alpha)[:, None], sigma)) / alpha


def total_variation(
    density: ArrayLike, other: ArrayLike, grid: ArrayLike
) -> Float[Array, "*laws"]:
    """Total variation between densities on a grid: half the integral of |p - q|.

    Args:
        density: [*laws, points].
        other: of the same shape.
        grid: rising points, [points].
    """
    grid = as_grid(grid)
    return _half_gap(as_float(density), as_float(other), grid)


@jax.jit
def _half_gap(density: Array, other: Array, grid: Array) -> Array:
    return integral(0.5 * jnp.abs(density - other), grid)
