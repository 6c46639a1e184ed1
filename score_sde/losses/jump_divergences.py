"""Losses of the divergence of a jump, the twins of those in `flow_maps`.

With A = Q log(s/sigma), what the log-density gains a dimension on the way back, and q
the divergence of x - D, a dimension, the exact Q obeys

    diagonal     Q(x, sigma, sigma) = q(x, sigma)
    semigroup    A(x; sigma -> s) = A(x; sigma -> r) + A(X(x; sigma -> r); r -> s)
    Lagrangian   dA/dlog s = q(X, s)
    Eulerian     dA/dlog sigma + (dA/dx)(x - D) = -q(x, sigma)

for levels in any order. q is estimated by probes, 1 - v . (J v)/dims with J the
Jacobian of D. That is unbiased and stands in targets alone, so that the losses have
their minimum at the exact Q whatever the probes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from score_sde.arrays import (
    example_keys,
    expand_like,
    in_one_piece,
    mean_over_data,
)
from score_sde.flow_map import as_denoiser, carry_density, needs_divergence
from score_sde.types import Array, Denoise, Jump, Key, Points

Levels = Float[Array, " batch"]
Probes = Float[Array, "probes batch *dims"]


def random_probes(key: Key, x: Points, num_probes: int = 1) -> Probes:
    """Random signs, those of each example a function of (key, example).

    Args:
        key: one of the batch, or one per example.
        x: [batch, *dims].
        num_probes: of each example.
    """
    keys = example_keys(key, len(x))
    shape = (num_probes, *x.shape[1:])
    signs = partial(in_one_piece, jr.rademacher)
    return jax.vmap(lambda key: signs(key, shape, x.dtype), out_axes=1)(keys)


def exact_probes(x: Points) -> Probes:
    """Probes, as many as dimensions, whose mean is the exact divergence."""
    size = x[0].size
    basis = size**0.5 * jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])
    return jnp.broadcast_to(basis, (size, *x.shape))


def flow_and_divergence(
    denoise: Denoise, x: Points, sigma: Levels, probes: Probes, cond: Any = None
) -> tuple[Float[Array, "batch *dims"], Levels]:
    """The flow by log sigma, x - D, and its divergence a dimension, by the probes.

    Args:
        denoise: whose flow it is.
        x: [batch, *dims].
        sigma: [batch].
        probes: of `random_probes` or `exact_probes`.
        cond: the condition, or None.
    """

    def pushed(v: Array) -> tuple[Array, Array]:
        value, slope = jax.jvp(lambda x: denoise(x, sigma, cond), (x,), (v,))
        return value, mean_over_data(v * slope)

    value, traces = jax.vmap(pushed, out_axes=(None, 0))(probes)
    return x - value, 1 - traces.mean(0)


def follow_density(
    denoise: Denoise,
    x: Points,
    sigma: Levels,
    sigma_next: Levels,
    probes: Probes,
    *,
    sigma_data: float,
    num_steps: int = 2,
    cond: Any = None,
) -> tuple[Float[Array, "batch *dims"], Levels]:
    """Carry x by the flow of a denoiser, and what the log-density gains on the way.

    Solved by the classical Runge-Kutta method for z = x/sqrt(sigma^2 + sigma_data^2),
    which a Gaussian leaves where it is, in steps that are even in log sigma.

    Args:
        denoise: whose flow it is; a step has four evaluations.
        x: [batch, *dims], at sigma.
        sigma: [batch], positive.
        sigma_next: likewise, above or below.
        probes: the same along the whole way.
        sigma_data: standard deviation of the data.
        num_steps: of the solver.
        cond: the condition, or None.

    Returns:
        X, and A, (log p(x) - log p(X)) / dims in nats.
    """
    start, way = jnp.log(sigma), jnp.log(sigma_next / sigma) / num_steps

    def scale(level: Array) -> Array:
        return expand_like(jnp.sqrt(sigma_data**2 + level**2), x)

    def slope(z: Array, number: Array) -> tuple[Array, Array]:
        level = jnp.exp(start + number * way)
        total, at = scale(level), expand_like(level, x)
        x_now = z * total
        drift, divergence = flow_and_divergence(denoise, x_now, level, probes, cond)
        drift = drift / total - z * (at / total) ** 2
        return expand_like(way, x) * drift, way * divergence

    def step(carried: tuple[Array, Array], number: Array) -> Any:
        z, gained = carried
        k1, a1 = slope(z, number)
        k2, a2 = slope(z + k1 / 2, number + 0.5)
        k3, a3 = slope(z + k2 / 2, number + 0.5)
        k4, a4 = slope(z + k3, number + 1)
        z = z + (k1 + 2 * k2 + 2 * k3 + k4) / 6
        return (z, gained + (a1 + 2 * a2 + 2 * a3 + a4) / 6), None

    numbers = jnp.arange(num_steps, dtype=way.dtype)
    first = x / scale(sigma), jnp.zeros_like(way)
    z, gained = jax.lax.scan(step, first, numbers)[0]
    return z * scale(sigma_next), gained


def stored_losses(
    jump: Jump,
    x: Points,
    reached: Points,
    gained: Levels,
    sigma: Levels,
    sigma_next: Levels,
    cond: Any = None,
) -> tuple[Levels, Levels]:
    """Errors of a jump and of its divergence to stored ones, of one evaluation.

    Args:
        jump: the student.
        x: [batch, *dims], at sigma.
        reached: where the flow leads from there, at sigma_next.
        gained: A on the way, [batch].
        sigma: [batch], positive.
        sigma_next: likewise, another level.
        cond: the condition, or None.

    Returns:
        The mean square of the error of X in units of the higher level, and the squared
        error of Q.
    """
    end, own = carry_density(jump, x, sigma, sigma_next, cond)
    unit = expand_like(jnp.maximum(sigma, sigma_next), x)
    error = mean_over_data(((end - jax.lax.stop_gradient(reached)) / unit) ** 2)
    way = jnp.log(sigma_next / sigma)
    return error, ((own - jax.lax.stop_gradient(gained)) / way) ** 2


def diagonal_divergence_loss(
    jump: Jump,
    x: Points,
    sigma: Levels,
    probes: Probes,
    *,
    teacher: Denoise | None = None,
    cond: Any = None,
) -> Levels:
    """Squared error of Q(x, sigma, sigma) to the divergence of the flow there.

    Args:
        jump: the student.
        x: [batch, *dims], at sigma.
        sigma: [batch].
        probes: of `random_probes` or `exact_probes`.
        teacher: whose flow it is; None for the student's own, without gradient.
        cond: the condition, or None.
    """
    denoise = teacher or as_denoiser(jump)
    _, aim = flow_and_divergence(denoise, x, sigma, probes, cond)
    _, own = needs_divergence(jump)(x, sigma, sigma, cond)
    return (own - jax.lax.stop_gradient(aim)) ** 2


def lagrangian_divergence_loss(
    jump: Jump,
    x: Points,
    sigma: Levels,
    sigma_next: Levels,
    probes: Probes,
    *,
    teacher: Denoise | None = None,
    cond: Any = None,
) -> Levels:
    """Square of dA/dlog s - q(X, s): the end gains what the flow gains there.

    Arguments are those of `diagonal_divergence_loss`, and sigma_next, [batch].
    """

    def gained(log_next: Array) -> tuple[Array, Array]:
        end, gain = carry_density(jump, x, sigma, jnp.exp(log_next), cond)
        return gain, end

    log_next = jnp.log(sigma_next)
    _, rate, end = jax.jvp(
        gained, (log_next,), (jnp.ones_like(log_next),), has_aux=True
    )
    denoise = teacher or as_denoiser(jump)
    end = jax.lax.stop_gradient(end)
    _, aim = flow_and_divergence(denoise, end, sigma_next, probes, cond)
    return (rate - jax.lax.stop_gradient(aim)) ** 2


def eulerian_divergence_loss(
    jump: Jump,
    x: Points,
    sigma: Levels,
    sigma_next: Levels,
    probes: Probes,
    *,
    teacher: Denoise | None = None,
    cond: Any = None,
) -> Levels:
    """Squared error of Q to q + log(s/sigma) dQ/dlog sigma, the rate along the flow.

    It is the Eulerian identity in the form of MeanFlow's: the target has no gradient.
    Arguments are those of `lagrangian_divergence_loss`.
    """
    denoise = teacher or as_denoiser(jump)
    drift, there = flow_and_divergence(denoise, x, sigma, probes, cond)

    def divergence(x: Array, log_sigma: Array) -> Array:
        return needs_divergence(jump)(x, jnp.exp(log_sigma), sigma_next, cond)[1]

    log_sigma = jnp.log(sigma)
    tangents = jax.lax.stop_gradient(drift), jnp.ones_like(sigma)
    own, rate = jax.jvp(divergence, (x, log_sigma), tangents)
    aim = there + jnp.log(sigma_next / sigma) * rate
    return (own - jax.lax.stop_gradient(aim)) ** 2


def semigroup_divergence_loss(
    jump: Jump,
    target: Jump,
    x: Points,
    sigma: Levels,
    middle: Levels,
    sigma_next: Levels,
    cond: Any = None,
) -> Levels:
    """Squared error of the Q of one jump to that of two of the target, no gradient.

    Args:
        jump: the student.
        target: whose two jumps it should equal.
        x: [batch, *dims], at sigma.
        sigma: [batch], positive.
        middle: where the first of the two jumps ends.
        sigma_next: where the second does, another level than sigma.
        cond: the condition, or None.
    """
    between, first = carry_density(target, x, sigma, middle, cond)
    _, second = carry_density(target, between, middle, sigma_next, cond)
    aim = (first + second) / jnp.log(sigma_next / sigma)
    _, own = needs_divergence(jump)(x, sigma, sigma_next, cond)
    return (own - jax.lax.stop_gradient(aim)) ** 2
