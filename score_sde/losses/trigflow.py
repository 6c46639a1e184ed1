"""Consistency models in continuous time, on the circle (Lu and Song 2025).

y = cos(t) x0 + sin(t) z, z of the data's scale, and the consistency function is
f = cos(t) y - sin(t) sigma_data F(y / sigma_data, t).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from score_sde.arrays import expand_like, mean_over_data
from score_sde.types import Array, Jump, Points


def raw_network(
    jump: Jump, y: Array, t: Array, sigma_data: float, cond: Any = None
) -> Array:
    """F(y / sigma_data, t) of a jump to 0: (cos(t) y - G)/(sigma_data sin(t))."""
    cos, sin = (expand_like(f(t), y) for f in (jnp.cos, jnp.sin))
    sigma = sigma_data * jnp.tan(t)
    end = jump(y / cos, sigma, jnp.zeros_like(sigma), cond)
    return (cos * y - end) / (sigma_data * sin)


def continuous_consistency_loss(
    jump: Jump,
    y: Points,
    slope: Points,
    t: Float[Array, " batch"],
    *,
    sigma_data: float,
    warm_up: Array | float = 1.0,
    offset: float = 0.1,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """Mean square of F - stop(F + g), whose gradient makes f stand still (eq. 8).

    g is the tangent -cos(t)^2 (sigma_data F - dy/dt) - r (sin(t) cos(t) y + sigma_data
    sin(t) cos(t) dF/dt), divided by its root mean square plus an offset (sec. 4.1).

    Args:
        jump: the student; its jump to 0 is f.
        y: on the circle, [batch, *dims].
        slope: dy/dt there: of a teacher's flow, or cos(t) z - sin(t) x0.
        t: the angle, in (0, pi/2), [batch].
        sigma_data: standard deviation of the data.
        warm_up: r, which grows from 0 to 1 in the first steps of training.
        offset: of the tangent's normalisation.
        cond: the condition, or None.
    """
    cos, sin = (expand_like(f(t), y) for f in (jnp.cos, jnp.sin))
    wave = (cos * sin)[(slice(None), *(0,) * (y.ndim - 1))]
    raw, rate = jax.jvp(
        lambda y, t: raw_network(jump, y, t, sigma_data, cond),
        (y, t),
        (cos * sin * slope, wave),
    )
    fixed = jax.lax.stop_gradient(raw)
    tangent = -(cos**2) * (sigma_data * fixed - slope)
    tangent -= warm_up * (cos * sin * y + sigma_data * rate)
    tangent /= expand_like(jnp.sqrt(mean_over_data(tangent**2)) + offset, y)
    return mean_over_data((raw - fixed - jax.lax.stop_gradient(tangent)) ** 2)
