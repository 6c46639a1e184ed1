"""The forward chain: paths, the kernel of one point, and the marginals of the data.

Prince 2023, sec. 18.2, figures 18.1 to 18.4.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Float

from score_sde.anatomy.lines import (
    Components,
    as_grid,
    chain_of,
    components,
    noised_density,
    normal_rows,
)
from score_sde.arrays import as_float, matmul, typed_key
from score_sde.oracles import GaussianMixture
from score_sde.types import Array, Key


class Paths(NamedTuple):
    """Paths of the forward chain."""

    z: Float[Array, "times paths"]
    """The latents, [T + 1, paths]; the first row is the data."""


class Kernel(NamedTuple):
    """The law of z_t given one point x, at every time."""

    density: Float[Array, "times points"]
    """Densities on the grid, [T + 1, points]; at t = 0 a bar of area 1 next to x."""
    mean: Float[Array, " times"]
    """sqrt(abar_t) x, [T + 1]."""
    std: Float[Array, " times"]
    """sqrt(1 - abar_t), [T + 1]."""


class Marginals(NamedTuple):
    """The law of z_t over all data, at every time."""

    density: Float[Array, "times points"]
    """Densities on the grid, [T + 1, points]; the first row is that of the data."""
    distribution: Float[Array, "times points"]
    """The probability that z_t is below each point, [T + 1, points]."""


def forward_paths(
    key: Key | None,
    x: ArrayLike,
    betas: ArrayLike,
    noise: ArrayLike | None = None,
) -> Paths:
    """Carry points through the forward chain (Prince 2023, figure 18.2).

    Args:
        key: a key for the noise; None where the noise is given.
        x: where the paths begin, [paths].
        betas: the variance that each step adds, [T].
        noise: standard normal noise of each step, [T, paths], instead of the key.

    Raises: ValueError without key and noise, and for noise of another shape.
    """
    x, chain = as_float(x), chain_of(betas)
    if x.ndim != 1:
        raise ValueError(f"x has the shape {x.shape}; it must be [paths].")
    shape = (chain.num_steps, *x.shape)
    if noise is not None:
        eps = jnp.asarray(noise, x.dtype)
    elif key is not None:
        eps = jr.normal(typed_key(key), shape, x.dtype)
    else:
        raise ValueError("forward_paths needs a key, or the noise itself.")
    if eps.shape != shape:
        raise ValueError(f"noise has the shape {eps.shape}; it must be {shape}.")

    def step(z: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        beta, eps = at
        z = jnp.sqrt(1 - beta) * z + jnp.sqrt(beta) * eps
        return z, z

    steps = jnp.asarray(chain.betas, x.dtype), eps
    return Paths(jnp.concatenate([x[None], jax.lax.scan(step, x, steps)[1]]))


def kernel(x: float | Array, betas: ArrayLike, grid: ArrayLike) -> Kernel:
    """The diffusion kernel q(z_t given x) = N(sqrt(abar_t) x, 1 - abar_t).

    Source: Prince 2023, eq. 18.7, figure 18.3.

    Args:
        x: the point that is noised, a scalar.
        betas: the variance that each step adds, [T].
        grid: rising points, [points].
    """
    grid, chain = as_grid(grid), chain_of(betas)
    mean = jnp.asarray(chain.abar**0.5, grid.dtype) * jnp.asarray(x, grid.dtype)
    variance = jnp.asarray(1 - chain.abar, grid.dtype)
    return Kernel(normal_rows(grid, mean, variance), mean, jnp.sqrt(variance))


def marginals(oracle: GaussianMixture, betas: ArrayLike, grid: ArrayLike) -> Marginals:
    """The marginals q(z_t) of the chain on a mixture (Prince 2023, figure 18.4).

    Args:
        oracle: the law of the data, of one dimension.
        betas: the variance that each step adds, [T].
        grid: rising points, [points].

    Raises: ValueError for a mixture of more dimensions.
    """
    grid, chain = as_grid(grid), chain_of(betas)
    parts = components(oracle, grid.dtype)

    alphas, sigmas = (
        jnp.asarray(a, grid.dtype) for a in (chain.abar**0.5, chain.sigmas)
    )
    return Marginals(*_marginals(alphas, sigmas, oracle, parts, grid))


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None, None, None))
def _marginals(
    alpha: Array, sigma: Array, oracle: GaussianMixture, parts: Components, grid: Array
) -> tuple[Array, Array]:
    """Density and distribution function of z = alpha (x + sigma eps) on a grid."""
    stds = alpha * jnp.sqrt(parts.variances + sigma**2)
    scaled = (grid[:, None] - (alpha * parts.means)[None]) / stds[None]
    density = noised_density(oracle, alpha, sigma, grid)
    return density, matmul(ndtr(scaled), parts.weights)
