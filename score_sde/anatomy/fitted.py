"""Models fitted as lookup tables, and the density that a reverse chain makes.

Prince 2023, sec. 18.4, figures 18.7 and 18.8. A table has a row for each step and a
column for each bin of z_t; fitting one is taking means, so that nothing is left of
training but its statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from score_sde.anatomy.lines import (
    Chain,
    as_grid,
    chain_of,
    components,
    normal_rows,
    total_variation,
    widths,
)
from score_sde.anatomy.posteriors import family
from score_sde.arrays import as_float, matmul, typed_key
from score_sde.oracles import GaussianMixture
from score_sde.types import Array, Key


class Table(NamedTuple):
    """A reverse model as a lookup table."""

    mean: Float[Array, "steps bins"]
    """f_t(z) of each bin of z_t, [T, bins]; row 0 is t = 1; NaN in an empty bin."""
    variance: Float[Array, "steps bins"]
    """Variance of z_(t-1) in each bin, [T, bins]."""
    num_samples: Int[Array, "steps bins"]
    """Samples in each bin, [T, bins]."""


class ConsistencyTable(NamedTuple):
    """A consistency function as a lookup table."""

    value: Float[Array, "steps bins"]
    """The data point to which each bin of z_t leads, [T, bins]; row 0 is t = 1; in an
    empty bin that of its neighbours."""
    num_samples: Int[Array, "steps bins"]
    """Samples in each bin, [T, bins]."""


class Pushed(NamedTuple):
    """The law of a reverse chain at every time."""

    density: Float[Array, "times points"]
    """Densities on the grid, [T + 1, points]; the last row is the prior N(0, 1)."""
    total_variation: Float[Array, " times"] | None
    """Total variation to the true law at every time, [T + 1]; None without it."""


def fit_table(
    key: Key,
    oracle: GaussianMixture,
    betas: ArrayLike,
    bins: ArrayLike,
    num_samples: int,
) -> Table:
    """Fit the reverse chain by means of its target (Prince 2023, figure 18.7).

    At every step, samples (x, z_t) are drawn, and the mean of q(z_(t-1) given z_t and
    x) is averaged in each bin of z_t. That minimises the squared error to that mean
    (eq. 18.25), and converges to E[z_(t-1) given z_t] as 1 / sqrt(samples).

    Args:
        key: a key for data and noise.
        oracle: the law of the data, of one dimension.
        betas: the variance that each step adds, [T].
        bins: rising edges of the bins, [bins + 1]; what lies outside is left out.
        num_samples: samples at each step.
    """
    chain, edges = chain_of(betas), np.asarray(as_grid(bins), np.float64)
    rows = []
    for t, x, eps in _samples(key, oracle, chain, num_samples):
        z = _noised(chain, t, x, eps)
        beta, before, after = chain.betas[t - 1], *chain.abar[t - 1 : t + 1]
        step = beta * (1 - before) / (1 - after)
        target = np.asarray(family(x, z, betas, t, t - 1, step).mean)
        mean, spread, count = _binned(z, target, edges)
        rows.append((mean, spread + step, count))
    mean, variance, count = (np.stack(column) for column in zip(*rows, strict=True))
    return Table(as_float(mean), as_float(variance), jnp.asarray(count))


def fit_consistency(
    key: Key,
    oracle: GaussianMixture,
    betas: ArrayLike,
    bins: ArrayLike,
    num_samples: int,
) -> ConsistencyTable:
    """Fit a consistency function by consistency training without a teacher.

    From the first step up, samples (x, eps) make pairs z_(t-1), z_t along one line,
    and f_t is the mean of f_(t-1)(z_(t-1)) in each bin of z_t, with f_0(x) = x (Song et
    al. 2023, eq. 10, at its fixed point). It converges to `quantile_map` down to level
    0 as steps, samples and bins grow; with few steps it is biased.

    Args:
        key: a key for data and noise.
        oracle: the law of the data, of one dimension.
        betas: the variance that each step adds, [T].
        bins: rising edges of the bins, [bins + 1]; what lies outside is left out.
        num_samples: samples at each step.

    Raises: ValueError if no sample falls into the bins.
    """
    chain, edges = chain_of(betas), np.asarray(as_grid(bins), np.float64)
    centres = 0.5 * (edges[1:] + edges[:-1])
    values: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    for t, x, eps in _samples(key, oracle, chain, num_samples):
        before = _noised(chain, t - 1, x, eps)
        target = np.interp(before, centres, values[-1]) if values else x
        mean, _, count = _binned(_noised(chain, t, x, eps), target, edges)
        if not count.any():
            raise ValueError(
                f"no sample of step {t} is between {edges[0]} and {edges[-1]}, the "
                "ends of bins."
            )
        values.append(np.interp(centres, centres[count > 0], mean[count > 0]))
        counts.append(count)
    return ConsistencyTable(as_float(np.stack(values)), jnp.asarray(np.stack(counts)))


def push_back(
    mean: ArrayLike,
    variance: ArrayLike,
    betas: ArrayLike,
    grid: ArrayLike,
    truth: ArrayLike | None = None,
) -> Pushed:
    """The law of the reverse chain z_(t-1) ~ N(mean_t(z_t), variance_t), by quadrature.

    It starts from N(0, 1), and pushes the density through each step's kernel on the
    grid, so that nothing is sampled (Prince 2023, figures 18.7 and 18.8). Variances
    below the square of the grid's spacing are raised to it: the grid can't resolve
    them.

    Args:
        mean: the mean of each step at the grid's points, [T, points]; row 0 is t = 1.
        variance: the variance of each step, [T] or [T, points].
        betas: the variance that each forward step adds, [T].
        grid: rising points, [points].
        truth: densities to compare with, [T + 1, points], as of `marginals`.

    Raises: ValueError for arrays of other shapes.
    """
    grid, chain = as_grid(grid), chain_of(betas)
    shape = (chain.num_steps, len(grid))
    mean, variance = (jnp.asarray(a, grid.dtype) for a in (mean, variance))
    if variance.shape == shape[:1]:
        variance = jnp.broadcast_to(variance[:, None], shape)
    for name, array in (("mean", mean), ("variance", variance)):
        if array.shape != shape:
            raise ValueError(
                f"{name} has the shape {array.shape}; it must be {shape}, or for "
                f"variances {shape[:1]}."
            )
    density = _pushed(mean, jnp.maximum(variance, jnp.diff(grid).max() ** 2), grid)
    if truth is None:
        return Pushed(density, None)
    truth = jnp.asarray(truth, grid.dtype)
    if truth.shape != density.shape:
        raise ValueError(
            f"truth has the shape {truth.shape}; it must be {density.shape}."
        )
    return Pushed(density, total_variation(density, truth, grid))


@jax.jit
def _pushed(mean: Array, variance: Array, grid: Array) -> Array:
    """Densities of the reverse chain at t = 0 ... T, [T + 1, points]."""
    prior = normal_rows(grid, jnp.zeros_like(grid[0]), jnp.ones_like(grid[0]))

    def step(density: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        pushed = matmul(density * widths(grid), normal_rows(grid, *at))
        return pushed, pushed

    rows = jax.lax.scan(step, prior, (mean, variance), reverse=True)[1]
    return jnp.concatenate([rows, prior[None]])


def _samples(
    key: Key, oracle: GaussianMixture, chain: Chain, num_samples: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(t, x, eps) of every step from the first, x and eps [samples] each."""
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; it must be >= 1.")
    components(oracle, jnp.float32)  # of one dimension, or refused
    keys = jr.split(typed_key(key), (chain.num_steps, 2))
    for t in range(1, chain.num_steps + 1):
        x = oracle.sample(keys[t - 1, 0], num_samples)[:, 0]
        yield t, np.asarray(x), np.asarray(jr.normal(keys[t - 1, 1], x.shape, x.dtype))


def _noised(chain: Chain, t: int, x: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """z_t of data and noise."""
    return chain.abar[t] ** 0.5 * x + (1 - chain.abar[t]) ** 0.5 * eps


def _binned(
    z: np.ndarray, target: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and number of the targets in each bin of z, [bins] each."""
    place = np.searchsorted(edges, z, side="right") - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    place, target = place[inside], target[inside].astype(np.float64)
    size = len(edges) - 1
    count = np.bincount(place, minlength=size)
    filled = np.where(count > 0, count, np.nan)
    mean = np.bincount(place, target, minlength=size) / filled
    squares = np.bincount(place, (target - mean[place]) ** 2, minlength=size)
    return mean, squares / filled, count
