"""Moves between data and noise: where editing starts, and translation."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from score_sde.arrays import (
    example_keys,
    expand_like,
    mean_over_data,
    per_example,
)
from score_sde.checks import check_grid
from score_sde.fields import checks_rules
from score_sde.rules import up_to, within
from score_sde.samplers import Solution, solve_ode
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Grid, Key, Level, Score


@checks_rules
def tail(sigmas: Array, strength: Annotated[float, up_to(1)]) -> Array:
    """Cut a grid to its last levels, a share `strength` of its steps (Meng 2022).

    Raises: ValueError unless 0 < strength <= 1, and for a grid that does not decrease.
    """
    check_grid(sigmas)
    num_steps = len(sigmas) - 1
    return sigmas[num_steps - max(1, round(strength * num_steps)) :]


def noised(
    key: Key, x0: Float[Array, "batch *dims"], sigma: Level
) -> Float[Array, "batch *dims"]:
    """Noise x0 to level sigma, to sample on; example i depends on (key, i)."""
    eps = per_example(jr.normal, example_keys(key, len(x0)), x0)
    return x0 + expand_like(sigma, x0) * eps


class Translation(NamedTuple):
    """A translated batch, and whether it is to be believed."""

    x: Array
    """[batch, *dims]; NaN where a solve gave up."""
    encoded: Array
    """The noise between, xt at t_max."""
    num_evals: Array
    """Evaluations of both solves, [batch]."""
    success: Array
    """False where a solve gave up, [batch]."""
    returned: Array
    """Root mean square of what is left of x0 when it is decoded under its own
    condition, [batch]: what the solver's error alone makes of a translation."""


@checks_rules
def invert(
    denoise: Denoise,
    x0: Float[Array, "batch *dims"],
    sigmas: Grid,
    *,
    cond: Any = None,
    order: Annotated[int, within(1, 2)] = 1,
) -> Float[Array, "batch *dims"]:
    """Carry data up a grid to noise by the probability flow, as DDIM inversion does.

    Sampling from there, by "euler" after order 1 or "heun" after order 2, gives the
    data back but for the error of the steps (Song et al. 2021, DDIM, sec. 5.4; Dhariwal
    and Nichol 2021, app. F).

    Args:
        denoise: the denoiser.
        x0: clean data, [batch, *dims].
        sigmas: a grid, decreasing, as it is for sampling. The slope of the way up from
            0 is taken at the first level above it.
        cond: the condition of x0.
        order: 1, Euler's steps, one evaluation each; 2, Heun's.

    Returns:
        x at level sigmas[0].

    Raises: ValueError for a grid that does not decrease, and an order that is none.
    """
    check_grid(sigmas)
    up = jnp.asarray(sigmas, x0.dtype)[::-1]

    def slope(x: Array, sigma: Array) -> Array:
        return (x - denoise(x, sigma, cond)) / sigma

    def step(x: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        low, high = ends
        first = slope(x, jnp.where(low > 0, low, high))
        moved = x + (high - low) * first
        if order == 1:
            return moved, None
        return x + (high - low) * 0.5 * (first + slope(moved, high)), None

    x, _ = jax.lax.scan(step, x0, (up[:-1], up[1:]))
    return x


def translate(
    score: Score,
    sde: SDE,
    x0: Float[Array, "batch *dims"],
    *,
    cond_from: Any,
    cond_to: Any,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Float[Array, "batch *dims"]:
    """Encode under one condition and decode under another (Su et al. 2023).

    The probability flow leads both ways; under the same condition x0 comes back. An
    example whose solve gave up is NaN; `translated` tells more.

    Args:
        score: score(xt, t, cond), shaped like xt.
        sde: the forward process.
        x0: clean data, [batch, *dims].
        cond_from: the condition of x0.
        cond_to: the condition of the result.
        rtol: relative tolerance of both solves.
        atol: absolute tolerance of both solves.
    """
    conds = {"cond_from": cond_from, "cond_to": cond_to}
    return _both_ways(score, sde, x0, **conds, rtol=rtol, atol=atol)[1].x


def translated(
    score: Score,
    sde: SDE,
    x0: Float[Array, "batch *dims"],
    *,
    cond_from: Any,
    cond_to: Any,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Translation:
    """Translate as `translate` does, with its cost and its verdict.

    The arguments are those of `translate`. It solves three times: up, down, and down
    again under the condition that x0 has.
    """
    conds = {"cond_from": cond_from, "cond_to": cond_to}
    options: dict[str, Any] = {"rtol": rtol, "atol": atol}
    up, down = _both_ways(score, sde, x0, **conds, **options)
    back = solve_ode(score, sde, up.x, cond=cond_from, **options)
    alpha = expand_like(sde.alpha(sde.t_min), x0)
    returned = jnp.sqrt(mean_over_data((back.x / alpha - x0) ** 2))
    return Translation(
        down.x,
        up.x,
        up.num_evals + down.num_evals,
        up.success & down.success,
        returned,
    )


def _both_ways(
    score: Score, sde: SDE, x0: Array, *, cond_from: Any, cond_to: Any, **options: Any
) -> tuple[Solution, Solution]:
    """The solves up and down; that down in the scale of the data."""
    alpha = expand_like(sde.alpha(sde.t_min), x0)
    up = solve_ode(
        score, sde, alpha * x0, t0=sde.t_min, t1=sde.t_max, cond=cond_from, **options
    )
    down = solve_ode(score, sde, up.x, cond=cond_to, **options)
    return up, down._replace(x=down.x / alpha)
