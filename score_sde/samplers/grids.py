"""Grids of noise levels: decreasing, num_steps + 1 values, the last one 0."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from score_sde.sde import SDE
from score_sde.types import Array, Scalar


def karras(
    num_steps: int, *, sigma_min: Scalar, sigma_max: Scalar, rho: Scalar = 7.0
) -> Array:
    """Evenly spaced in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    ends = jnp.stack([jnp.power(sigma_max, 1 / rho), jnp.power(sigma_min, 1 / rho)])
    return _with_zero(jnp.power(jnp.linspace(ends[0], ends[1], num_steps), rho))


def exponential(num_steps: int, *, sigma_min: Scalar, sigma_max: Scalar) -> Array:
    """Evenly spaced in log sigma."""
    return polyexponential(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=1.0)


def polyexponential(
    num_steps: int, *, sigma_min: Scalar, sigma_max: Scalar, rho: Scalar = 1.0
) -> Array:
    """Log sigma falls as a polynomial of degree rho; 1 is `exponential`."""
    ramp = jnp.power(jnp.linspace(1.0, 0.0, num_steps), rho)
    return _with_zero(
        jnp.exp(ramp * (jnp.log(sigma_max) - jnp.log(sigma_min)) + jnp.log(sigma_min))
    )


def uniform_time(num_steps: int, *, sde: SDE) -> Array:
    """Sigma at times evenly spaced from t_max to t_min: the grid of any SDE."""
    return _with_zero(sde.sigma(jnp.linspace(sde.t_max, sde.t_min, num_steps)))


def _with_zero(sigmas: Array) -> Array:
    return jnp.append(sigmas, jnp.zeros_like(sigmas[:1]))


GRIDS: dict[str, Callable[..., Array]] = {
    "karras": karras,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "uniform_time": uniform_time,
}
