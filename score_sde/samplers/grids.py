"""Grids of noise levels: decreasing, num_steps + 1 values, the last one 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Float

from score_sde import schedules
from score_sde.arrays import as_float, as_levels, is_traced
from score_sde.fields import checks_rules
from score_sde.rules import Positive, at_least, each, one_of
from score_sde.sde import SDE, VP
from score_sde.types import Array, Grid, Scalar

Count = Annotated[int, at_least(1)]


@checks_rules
def karras(
    num_steps: Count,
    *,
    sigma_min: Annotated[Scalar, Positive],
    sigma_max: Annotated[Scalar, Positive],
    rho: Annotated[Scalar, Positive] = 7.0,
) -> Float[Array, " levels"]:
    """Grid evenly spaced in sigma^(1/rho) (Karras et al. 2022, eq. 5).

    Args:
        num_steps: the number of steps; the grid has one level more, the last one 0.
        sigma_min: the last level above 0.
        sigma_max: the first level.
        rho: 1 is even in sigma; the larger, the denser at low noise.

    Raises: ValueError unless 0 < sigma_min < sigma_max, rho > 0 and num_steps >= 1.

    Examples:
        >>> sigmas = karras(3, sigma_min=0.02, sigma_max=80.0)
        >>> print([round(float(s), 2) for s in sigmas])
        [80.0, 4.05, 0.02, 0.0]
    """
    _check_ends(sigma_min, sigma_max)
    high, low = (jnp.power(as_float(s), 1 / rho) for s in (sigma_max, sigma_min))
    sigmas = jnp.power(jnp.linspace(high, low, num_steps), rho)
    return _with_zero(sigmas, first=sigma_max)


@checks_rules
def exponential(
    num_steps: Count,
    *,
    sigma_min: Annotated[Scalar, Positive],
    sigma_max: Annotated[Scalar, Positive],
) -> Float[Array, " levels"]:
    """Grid evenly spaced in log sigma."""
    return polyexponential(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=1.0)


@checks_rules
def polyexponential(
    num_steps: Count,
    *,
    sigma_min: Annotated[Scalar, Positive],
    sigma_max: Annotated[Scalar, Positive],
    rho: Annotated[Scalar, Positive] = 1.0,
) -> Float[Array, " levels"]:
    """Grid whose log sigma falls as a polynomial of degree rho; 1 is `exponential`."""
    _check_ends(sigma_min, sigma_max)
    high, low = (jnp.log(as_float(s)) for s in (sigma_max, sigma_min))
    ramp = jnp.power(jnp.linspace(1.0, 0.0, num_steps, dtype=high.dtype), rho)
    return _with_zero(jnp.exp(ramp * (high - low) + low), first=sigma_max)


@checks_rules
def trigflow(
    num_steps: Count,
    *,
    sigma_min: Annotated[Scalar, Positive],
    sigma_max: Annotated[Scalar, Positive],
    sigma_data: Annotated[Scalar, Positive] = 0.5,
    power: Annotated[Scalar, Positive] = 1.0,
) -> Float[Array, " levels"]:
    """Grid evenly spaced in the angle atan(sigma / sigma_data) of TrigFlow, to a power.

    Args:
        num_steps: the number of steps; the grid has one level more, the last one 0.
        sigma_min: the last level above 0.
        sigma_max: the first level.
        sigma_data: the standard deviation of the data.
        power: 1 is even in the angle; the smaller, the denser at low noise.

    Raises: ValueError unless 0 < sigma_min < sigma_max, power > 0 and num_steps >= 1.
    """
    _check_ends(sigma_min, sigma_max)
    high, low = (
        jnp.power(jnp.arctan2(as_float(s), as_float(sigma_data)), power)
        for s in (sigma_max, sigma_min)
    )
    angles = jnp.power(jnp.linspace(high, low, num_steps), 1 / power)
    return _with_zero(sigma_data * jnp.tan(angles), first=sigma_max)


@checks_rules
def uniform_time(num_steps: Count, *, sde: SDE) -> Float[Array, " levels"]:
    """Grid of any SDE: sigma at times evenly spaced from t_max to t_min."""
    return _with_zero(sde.sigma(jnp.linspace(sde.t_max, sde.t_min, num_steps)))


@checks_rules
def vp(
    num_steps: Count,
    *,
    beta_d: Annotated[float, Positive] = 19.9,
    beta_min: Annotated[float, Positive] = 0.1,
    eps_s: Annotated[float, Positive] = 1e-3,
) -> Float[Array, " levels"]:
    """Grid of a VP process at even times from 1 to eps_s (Karras 2022, table 1)."""
    sde = VP(beta_min=beta_min, beta_max=beta_min + beta_d, t_min=eps_s)
    return uniform_time(num_steps, sde=sde)


@checks_rules
def ddpm(
    num_steps: Count,
    *,
    beta_schedule: Annotated[str, one_of(schedules.BETA_SCHEDULES)] = "linear",
    num_train_timesteps: Count = 1000,
    beta_start: Annotated[float, Positive] = 1e-4,
    beta_end: Annotated[float, Positive] = 0.02,
    zero_terminal_snr: bool = False,
    timestep_spacing: Annotated[str, one_of(schedules.TIMESTEP_SPACINGS)] = "leading",
    steps_offset: Annotated[int, at_least(0)] = 0,
) -> Float[Array, " levels"]:
    """Grid of a discrete chain, at num_steps of its timesteps (Ho et al. 2020).

    Args:
        num_steps: the number of timesteps that are visited.
        beta_schedule: a name of `schedules.BETA_SCHEDULES`.
        num_train_timesteps: the length of the chain.
        beta_start: the first beta.
        beta_end: the last beta.
        zero_terminal_snr: whether the chain ends without signal.
        timestep_spacing: a name of `schedules.TIMESTEP_SPACINGS`. For any other
            timesteps, take their levels from `schedules.levels`.
        steps_offset: added to every timestep.

    Raises: ValueError for an unknown name and for timesteps that the chain lacks.
    """
    space = schedules.TIMESTEP_SPACINGS[timestep_spacing]
    if num_steps > num_train_timesteps:
        raise ValueError(
            f"num_steps is {num_steps}; the chain has {num_train_timesteps} timesteps."
        )
    timesteps = space(num_steps, num_train_timesteps) + steps_offset
    if timesteps[0] >= num_train_timesteps:
        raise ValueError(
            f"steps_offset is {steps_offset}; it leads out of the chain, to timesteps "
            f"from {timesteps[-1]} to {timesteps[0]} of {num_train_timesteps}."
        )
    levels = schedules.chain_levels(
        beta_schedule, num_train_timesteps, beta_start, beta_end, zero_terminal_snr
    )
    return _with_zero(jnp.asarray(levels[timesteps]))


def levels(*sigmas: Annotated[Scalar, Positive]) -> Float[Array, " levels"]:
    """Grid of given levels and 0: `levels(80.0, 0.8)` has two steps, 80 to 0.8 to 0.

    Args:
        sigmas: decreasing, positive; a level is where a step of few-step models begins.

    Raises: ValueError for levels that don't decrease, or are not positive.
    """
    if not sigmas:
        raise ValueError("a grid needs at least one level.")
    if not is_traced(sigmas):
        given = [float(s) for s in sigmas]
        below = [*given[1:], 0.0]
        if not all(a > b for a, b in zip(given, below, strict=True)) or math.isinf(
            given[0]
        ):
            raise ValueError(
                f"levels must be finite, positive and decrease, got {given}."
            )
    return _with_zero(jnp.stack([as_float(s) for s in sigmas]))


@checks_rules
def listed(*, sigmas: tuple[float, ...]) -> Float[Array, " levels"]:
    """Grid of the levels that a config lists, see `levels`."""
    return levels(*sigmas)


@checks_rules
def sections(
    counts: Annotated[tuple[int, ...], each(at_least(1), at_least_one=True)] = (10, 20),
    *,
    beta_schedule: Annotated[str, one_of(schedules.BETA_SCHEDULES)] = "linear",
    num_train_timesteps: Count = 1000,
    beta_start: Annotated[float, Positive] = 1e-4,
    beta_end: Annotated[float, Positive] = 0.02,
    zero_terminal_snr: bool = False,
) -> Float[Array, " levels"]:
    """Grid of a discrete chain whose sections have strides of their own.

    Args:
        counts: timesteps that are visited in each of as many sections of equal length,
            the one of least noise first: "10,15,20" of improved DDPM's respacing.
        beta_schedule: a name of `schedules.BETA_SCHEDULES`.
        num_train_timesteps: the length of the chain.
        beta_start: the first beta.
        beta_end: the last beta.
        zero_terminal_snr: whether the chain ends without signal.

    Raises: ValueError for an unknown name and for a section shorter than its count.
    """
    levels = schedules.chain_levels(
        beta_schedule, num_train_timesteps, beta_start, beta_end, zero_terminal_snr
    )
    timesteps = schedules.sections(tuple(counts), num_train_timesteps)
    return _with_zero(jnp.asarray(levels[timesteps]))


def share_of_step(sigmas: Grid, sigma: Scalar) -> Array:
    """Share 1 - sigma_next / sigma of the way to D(x, sigma) that Euler's step takes.

    The step is that of the grid which begins at sigma, or else within which sigma lies.

    Args:
        sigmas: the grid, [num_steps + 1], decreasing.
        sigma: a scalar or [batch].
    """
    sigma = as_levels(sigma)
    grid = jnp.asarray(sigmas, sigma.dtype)
    # Rounding may bring a sampler somewhat below its level.
    number = (grid[None] > 1.0001 * sigma.reshape(-1, 1)).sum(1)
    number = number.reshape(sigma.shape).clip(0, len(grid) - 2)
    return 1 - grid[number + 1] / grid[number]


def _with_zero(sigmas: Array, first: Scalar | None = None) -> Array:
    """Append 0 to a grid, and set its first level, which rounding may have moved."""
    if first is not None:
        sigmas = sigmas.at[0].set(first)
    return jnp.append(sigmas, jnp.zeros_like(sigmas[:1]))


def _check_ends(sigma_min: Scalar, sigma_max: Scalar) -> None:
    """Refuse ends that are not 0 < sigma_min < sigma_max, unless they are traced."""
    if is_traced((sigma_min, sigma_max)):
        return
    low, high = float(sigma_min), float(sigma_max)
    if not 0 < low < high < math.inf:
        raise ValueError(
            f"a grid needs 0 < sigma_min < sigma_max, got {low} and {high}."
        )


GRIDS: dict[str, Callable[..., Array]] = {
    "karras": karras,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "log_snr": exponential,  # even in log SNR = -2 log sigma
    "trigflow": trigflow,
    "uniform_time": uniform_time,
    "vp": vp,
    "ddpm": ddpm,
    "levels": listed,
    "sections": sections,
}
