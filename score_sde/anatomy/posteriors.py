"""One step back: the true posterior, that of one point, and the family of chains.

Prince 2023, sec. 18.3 and 18.6, figures 18.5, 18.6 and 18.10.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from score_sde.anatomy.lines import (
    Components,
    as_grid,
    chain_of,
    check_time,
    components,
    integral,
    is_covered,
    log_normal,
    noised_density,
    normal_rows,
)
from score_sde.arrays import as_float, matmul
from score_sde.oracles import GaussianMixture
from score_sde.types import Array


class ReversePosterior(NamedTuple):
    """The law of z_(t-1) given z_t, and the two factors that make it."""

    density: Float[Array, "*states points"]
    """q(z_(t-1) given z_t) on the grid, [*z.shape, points]."""
    likelihood: Float[Array, "*states points"]
    """q(z_t given z_(t-1)) as a function of z_(t-1), not normalised."""
    prior: Float[Array, " points"]
    """q(z_(t-1)) on the grid, [points]."""
    mean: Float[Array, "*states"]
    """Mean of the density, shaped like z: the best reverse step f_t(z)."""
    variance: Float[Array, "*states"]
    """Variance of the density, shaped like z."""
    normal: Float[Array, "*states points"]
    """The normal law of equal mean and variance on the grid."""
    kl: Float[Array, "*states"]
    """KL of the density to that normal law in nats, by the trapezoid rule; NaN where
    the grid misses more than a thousandth of the mass."""


class ConditionalPosterior(NamedTuple):
    """The law of z_(t-1) given z_t and the data point x, and its two factors."""

    density: Float[Array, "*states points"]
    """q(z_(t-1) given z_t and x) on the grid; for t = 1 a bar of area 1 next to x."""
    likelihood: Float[Array, "*states points"]
    """q(z_t given z_(t-1)) as a function of z_(t-1), not normalised."""
    kernel: Float[Array, "*states points"]
    """q(z_(t-1) given x) on the grid."""
    mean: Float[Array, "*states"]
    """Mean of the density."""
    variance: Float[Array, ""]
    """Variance of the density, which depends on neither z_t nor x."""


class Family(NamedTuple):
    """Moments of a step back from z_t to z_s, given the data point."""

    mean: Float[Array, "*states"]
    variance: Float[Array, ""]


def reverse_posterior(
    oracle: GaussianMixture, betas: ArrayLike, t: int, z: ArrayLike, grid: ArrayLike
) -> ReversePosterior:
    """The true posterior q(z_(t-1) given z_t), which is a mixture again.

    Source: Prince 2023, sec. 18.3, figure 18.5. The posterior of each component of
    q(z_(t-1)) is that of a linear Gaussian observation.

    Args:
        oracle: the law of the data, of one dimension.
        betas: the variance that each step adds, [T].
        t: the step, from 1 to T.
        z: values of z_t, of any shape.
        grid: rising points of z_(t-1), [points].

    Raises: ValueError for a step that the chain lacks.
    """
    grid, chain = as_grid(grid), chain_of(betas)
    check_time("t", t, 1, chain.num_steps)
    z = jnp.asarray(z, grid.dtype)
    beta, alpha = chain.betas[t - 1], chain.abar[t - 1] ** 0.5
    parts = components(oracle, grid.dtype)
    scale, sigma, step = (
        jnp.asarray(a, grid.dtype) for a in (alpha, chain.sigmas[t - 1], beta)
    )
    prior = noised_density(oracle, scale, sigma, grid)
    density, normal, mean, variance, kl = (
        a.reshape(z.shape + a.shape[1:])
        for a in _reverse(z.ravel(), parts, (scale, sigma, step), grid)
    )
    likelihood = _step_likelihood(grid, z, step)
    return ReversePosterior(density, likelihood, prior, mean, variance, normal, kl)


@jax.jit
@partial(jax.vmap, in_axes=(0, None, None, None))
def _reverse(
    z: Array, data: Components, at: tuple[Array, Array, Array], grid: Array
) -> tuple[Array, ...]:
    """Density, normal law, mean, variance and divergence of one step back.

    Args:
        z: the state after the step, a scalar.
        data: the components of the data.
        at: scale and noise level of z_(t-1), and the variance of the step.
        grid: [points].
    """
    scale, sigma, beta = at
    before, spread = scale * data.means, scale**2 * (data.variances + sigma**2)
    keep = jnp.sqrt(1 - beta)
    total = beta + keep**2 * spread
    log_joint = jnp.log(data.weights) + log_normal(z, keep * before, total)
    share = jax.nn.softmax(log_joint)
    variances = spread * beta / total
    means = (beta * before + keep * spread * z) / total
    mean = matmul(share, means)
    variance = matmul(share, variances + (means - mean) ** 2)
    each = log_normal(grid[:, None], means[None], variances[None])
    log_density = jax.nn.logsumexp(each + jax.nn.log_softmax(log_joint)[None], axis=1)
    log_fit = log_normal(grid, mean, variance)
    nats = _divergence(log_density, log_fit, grid)
    return jnp.exp(log_density), jnp.exp(log_fit), mean, variance, nats


def conditional_posterior(
    x: ArrayLike, betas: ArrayLike, t: int, z: ArrayLike, grid: ArrayLike
) -> ConditionalPosterior:
    """The posterior q(z_(t-1) given z_t and x), a normal law.

    Source: Prince 2023, eq. 18.15, figure 18.6: the member of `family` whose variance
    is beta_t (1 - abar_(t-1)) / (1 - abar_t).

    Args:
        x: the data point, a scalar or shaped like z.
        betas: the variance that each step adds, [T].
        t: the step, from 1 to T.
        z: values of z_t, of any shape.
        grid: rising points of z_(t-1), [points].

    Raises: ValueError for a step that the chain lacks.
    """
    grid, chain = as_grid(grid), chain_of(betas)
    check_time("t", t, 1, chain.num_steps)
    z = jnp.asarray(z, grid.dtype)
    x = jnp.broadcast_to(jnp.asarray(x, grid.dtype), z.shape)
    beta, before, after = chain.betas[t - 1], *chain.abar[t - 1 : t + 1]
    moments = family(x, z, betas, t, t - 1, beta * (1 - before) / (1 - after))
    variance = moments.variance
    free = jnp.full_like(z, 1 - before)
    return ConditionalPosterior(
        normal_rows(grid, moments.mean, jnp.broadcast_to(variance, z.shape)),
        _step_likelihood(grid, z, jnp.asarray(beta, grid.dtype)),
        normal_rows(grid, float(before) ** 0.5 * x, free),
        moments.mean,
        variance,
    )


def family(
    x: ArrayLike, z: ArrayLike, betas: ArrayLike, t: int, s: int, variance: float
) -> Family:
    """Moments of q(z_s given z_t and x) in the family that keeps the marginals.

    For every variance v with 0 <= v <= 1 - abar_s, and every s < t, the kernel at t
    followed by this step is the kernel at s (Song, Meng and Ermon 2021, eq. 7; Prince
    2023, sec. 18.6.1):

        mean = sqrt(abar_s) x + sqrt(1 - abar_s - v) eps
        eps  = (z_t - sqrt(abar_t) x) / sqrt(1 - abar_t)          variance = v

    v = 0 is DDIM; the posterior's variance is the chain itself.

    Args:
        x: the data point, of any shape.
        z: values of z_t, of a shape that broadcasts with x.
        betas: the variance that each step adds, [T].
        t: the time where the step begins, from 1 to T.
        s: the time where it ends, from 0 to t - 1.
        variance: the variance v of the step.

    Raises: ValueError for times that the chain lacks and a variance outside its bounds.
    """
    chain = chain_of(betas)
    check_time("t", t, 1, chain.num_steps)
    check_time("s", s, 0, t - 1)
    free = 1 - chain.abar[s]
    # What rounding puts above the bound is the bound.
    if not 0 <= variance <= free * (1 + 1e-12):
        raise ValueError(f"variance is {variance}; it must be from 0 to {free}.")
    x, z = as_float(x), as_float(z)
    along = float(np.sqrt(max(free - variance, 0.0) / (1 - chain.abar[t])))
    before, after = (float(a) ** 0.5 for a in (chain.abar[s], chain.abar[t]))
    x, z = jnp.broadcast_arrays(x, jnp.asarray(z, x.dtype))
    mean = before * x + along * (z - after * x)
    return Family(mean, jnp.asarray(variance, x.dtype))


@jax.jit
def _step_likelihood(grid: Array, z: Array, beta: Array) -> Array:
    """q(z_t given z_(t-1)) at every point of a grid of z_(t-1), [*z.shape, points]."""
    mean = jnp.sqrt(1 - beta) * grid.reshape((1,) * z.ndim + (-1,))
    return jnp.exp(log_normal(*jnp.broadcast_arrays(z[..., None], mean, beta)))


def _divergence(log_p: Array, log_q: Array, grid: Array) -> Array:
    """KL(p || q) in nats on a grid.

    The integrand is p log(p / q) - p + q, which is nowhere negative, so that
    divergences far below the rounding of p are right.
    """
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    nats = integral(p * (log_p - log_q) - p + q, grid)
    return jnp.where(is_covered(p, grid), nats, jnp.nan)
