"""Losses of two-time flow maps: progressive, average velocity, Lagrangian, Eulerian.

The exact map obeys, for levels in any order (Boffi et al. 2024):

    semigroup    X(X(x; sigma -> r); r -> s) = X(x; sigma -> s)
    Lagrangian   dX/ds = v(X, s),  v(x, sigma) = (x - D(x, sigma))/sigma
    Eulerian     dX/dsigma + (dX/dx) v(x, sigma) = 0

Each method makes one of them a regression. The last two are taken on the circle
y = cos(t) x, sigma = sigma_data tan(t), where everything has the data's scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from score_sde.arrays import expand_like, mean_over_data, sum_over_data
from score_sde.flow_map import as_denoiser, carry, jump_between
from score_sde.types import Array, Denoise, Jump, Points

Levels = Float[Array, " batch"]
Step = Callable[[Denoise, Array, Array, Array, Any], Array]


def progressive_target(
    steps: Callable[[Array, Array, Array], Array],
    x: Points,
    sigma: Levels,
    middle: Levels,
    lower: Levels,
) -> Float[Array, "batch *dims"]:
    """The G of one step that leads where a teacher's two lead (Salimans 2022, alg. 2).

    Args:
        steps: (x, sigma, next) -> x, one step of the teacher.
        x: [batch, *dims], at sigma.
        sigma: where both steps begin.
        middle: where the first ends.
        lower: where the second ends; 0 gives the teacher's x0.
    """
    reached = steps(steps(x, sigma, middle), middle, lower)
    return jax.lax.stop_gradient(jump_between(x, reached, sigma, lower))


# The straight line z = (1 - t) x0 + t eps, with velocity eps - x0.


def average_velocity(jump: Jump, cond: Any = None) -> Callable[..., Array]:
    """The function u(z, t, r) = (z - Z)/(t - r) of a jump, for t in (0, 1).

    Z is where the flow carries z from time t to r. In terms of the jump it is
    (z - G)/t whatever r is, so that u(z, t, t) is the velocity.
    """

    def u(z: Array, t: Array, r: Array) -> Array:
        x = z / expand_like(1 - t, z)
        return (z - jump(x, t / (1 - t), r / (1 - r), cond)) / expand_like(t, z)

    return u


def mean_flow_loss(
    jump: Jump,
    z: Points,
    velocity: Points,
    t: Levels,
    r: Levels,
    *,
    power: float = 1.0,
    offset: float = 1e-3,
    own_tangent: bool = False,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """Squared error of the average velocity, weighted by itself (Geng 2025, alg. 1).

    The target is v - (t - r) du/dt, du/dt along the flow, without gradient; the loss is
    S / (S + offset)^power with the denominator's gradient stopped, S a sum of squares.

    Args:
        jump: the student.
        z: (1 - t) x0 + t eps, [batch, *dims].
        velocity: eps - x0, or a teacher's or a guided one.
        t: the upper time, in (0, 1).
        r: the lower time, at most t; at r = t it is the denoising loss.
        power: 1 makes all examples count alike, 0 is the plain squared error.
        offset: keeps the weight finite.
        own_tangent: whether du/dt follows the student's own velocity u(z, t, t) rather
            than `velocity`, whose noise it would carry (Geng et al. 2025b).
        cond: the condition, or None.
    """
    u = average_velocity(jump, cond)
    along = jax.lax.stop_gradient(u(z, t, t)) if own_tangent else velocity
    predicted, rate = jax.jvp(
        lambda z, t: u(z, t, r), (z, t), (along, jnp.ones_like(t))
    )
    target = velocity - expand_like(t - r, z) * rate
    total = sum_over_data((predicted - jax.lax.stop_gradient(target)) ** 2)
    return total / (jax.lax.stop_gradient(total) + offset) ** power


def half_steps_target(
    jump: Jump,
    z: Points,
    t: Levels,
    r: Levels,
    *,
    bound: float = jnp.inf,
    cond: Any = None,
) -> Float[Array, "batch *dims"]:
    """The average velocity of two steps of half the size (Frans et al. 2024, eq. 5).

    Args:
        jump: whose steps they are.
        z: on the straight line at time t.
        t: the upper time, in (0, 1).
        r: the lower time.
        bound: the point between them, and the target, are clipped to +- this.
        cond: the condition, or None.
    """
    u = average_velocity(jump, cond)
    middle = (t + r) / 2
    first = u(z, t, middle)
    between = jnp.clip(z - expand_like(t - middle, z) * first, -bound, bound)
    second = u(between, middle, r)
    return jax.lax.stop_gradient(jnp.clip((first + second) / 2, -bound, bound))


# The circle y = cos(t) x0 + sin(t) z, z of the data's scale.


def on_circle(jump: Jump, sigma_data: float, cond: Any = None) -> Callable[..., Array]:
    """The flow map Y(y; t -> r) of a jump: where the flow carries y on the circle."""

    def move(y: Array, t: Array, r: Array) -> Array:
        x = y / expand_like(jnp.cos(t), y)
        sigma, lower = sigma_data * jnp.tan(t), sigma_data * jnp.tan(r)
        return expand_like(jnp.cos(r), y) * carry(jump, x, sigma, lower, cond)

    return move


def circle_velocity(
    denoise: Denoise, y: Array, t: Array, sigma_data: float, cond: Any = None
) -> Array:
    """Slope dy/dt of the flow on the circle: (cos(t) y - D)/sin(t)."""
    cos, sin = (expand_like(f(t), y) for f in (jnp.cos, jnp.sin))
    return (cos * y - denoise(y / cos, sigma_data * jnp.tan(t), cond)) / sin


def lagrangian_loss(
    jump: Jump,
    y: Points,
    t: Levels,
    r: Levels,
    *,
    sigma_data: float,
    teacher: Denoise | None = None,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """Mean square of dY/dr - w(Y, r) (Boffi et al. 2025): the end moves with the flow.

    One derivative in a scalar time: none in space.

    Args:
        jump: the student.
        y: on the circle at t, [batch, *dims].
        t: the angle where the jump begins, in (0, pi/2).
        r: the angle where it ends, above 0, lower or higher.
        sigma_data: standard deviation of the data.
        teacher: whose velocity w it is; None for the student's own, without gradient.
        cond: the condition, or None.
    """
    move = on_circle(jump, sigma_data, cond)
    end, rate = jax.jvp(lambda r: move(y, t, r), (r,), (jnp.ones_like(r),))
    denoise = teacher or as_denoiser(jump)
    slope = circle_velocity(denoise, jax.lax.stop_gradient(end), r, sigma_data, cond)
    return mean_over_data((rate - jax.lax.stop_gradient(slope)) ** 2) / sigma_data**2


def eulerian_loss(
    jump: Jump,
    y: Points,
    t: Levels,
    r: Levels,
    slope: Points,
    *,
    sigma_data: float,
    warm_up: Array | float = 1.0,
    offset: float = 0.1,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """Error to where the map's end should move when its start does (Sabour 2025).

    Along the flow the end stands still. The rate g = dY/dt, divided by its size plus an
    offset, is where Y is wrong: the loss is the mean square of Y - stop(Y - g).

    Args:
        jump: the student.
        y: on the circle at t, [batch, *dims].
        t: the angle where the jump begins, in (0, pi/2).
        r: the angle where it ends, lower or higher.
        slope: dy/dt there, of a teacher, of the student or of the noise and the data.
        sigma_data: standard deviation of the data.
        warm_up: share of the part of g through the network, from 0 to 1: the rest is
            that of an Euler step, which is stable.
        offset: in units of sigma_data.
        cond: the condition, or None.
    """
    move = on_circle(jump, sigma_data, cond)
    end, rate = jax.jvp(lambda y, t: move(y, t, r), (y, t), (slope, jnp.ones_like(t)))
    # On the circle a jump is cos(t - r) y - sin(t - r) w. With w held, and the turn of
    # y left out, its rate is cos(t - r) (slope - w).
    gap = expand_like(t - r, y)
    own = (jnp.cos(gap) * y - end) / jnp.sin(gap)
    held = jnp.cos(gap) * (slope - own)
    rate = held + warm_up * (rate - held)
    size = jnp.sqrt(mean_over_data(rate**2))
    step = rate / expand_like(size / sigma_data + offset, y)
    aim = jax.lax.stop_gradient(end - step)
    return mean_over_data((end - aim) ** 2) / sigma_data**2


def semigroup_loss(
    jump: Jump,
    target: Jump,
    y: Points,
    t: Levels,
    middle: Levels,
    r: Levels,
    *,
    sigma_data: float,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """Mean square of one jump against two of the target, without its gradient.

    Args:
        jump: the student.
        target: whose two jumps it should equal.
        y: on the circle at t, [batch, *dims].
        t: the angle where the jump begins.
        middle: where the first of the two jumps ends.
        r: where the second does, lower than t or higher.
        sigma_data: standard deviation of the data.
        cond: the condition, or None.
    """
    step = on_circle(target, sigma_data, cond)
    aim = jax.lax.stop_gradient(step(step(y, t, middle), middle, r))
    end = on_circle(jump, sigma_data, cond)(y, t, r)
    return mean_over_data((end - aim) ** 2) / sigma_data**2
