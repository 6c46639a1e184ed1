"""Log-densities in a few evaluations, by a flow map that knows its divergence.

A jump from level sigma up to s carries x to X and its log-density along (`flow_map`):

    log p_sigma(x) = log p_s(X) + dims Q(x, sigma, s) log(s/sigma)

From the data, at t_min, a few of them lead to the prior at t_max (Ai et al. 2025). The
number is the student's own: where map and divergence are not quite those of the flow,
it is the log-density of no distribution, and can be too high. It is to be reported with
its difference from `likelihood.log_prob` of the flow that the student was made from.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from score_sde.arrays import (
    as_data,
    expand_like,
    in_full_precision,
    is_traced,
)
from score_sde.flow_map import (
    carry_density,
    check_jumps,
    needs_divergence,
    reach_of,
)
from score_sde.integrate import floats_of_a_solve
from score_sde.likelihood import LogProb
from score_sde.sde import SDE, prior_log_prob
from score_sde.types import Array, Denoise, Grid, Jump, Points

CLOSE = 1e-3
"""How far, relatively, the ends of the levels may be from those of the SDE."""


@in_full_precision
def few_step_log_prob(
    x: Points,
    *,
    sde: SDE,
    jump: Denoise | Jump,
    sigmas: Grid | None = None,
    num_evals: int | None = None,
    cond: Any = None,
) -> LogProb:
    """Log-density of x by a few jumps from the data up to the prior.

    Args:
        x: a point of the marginal at t_min, [batch, *dims].
        sde: the forward process.
        jump: a flow map that knows its divergence, and goes up.
        sigmas: increasing levels from that at t_min to that at t_max, a jump from each
            to the next; None for `rising_levels`.
        num_evals: jumps if no levels are given; None for `default_num_evals`.
        cond: the condition of the jump, or None.

    Returns:
        As `likelihood.log_prob` does; `solver_error` is not known, NaN, and
        `probe_error` is 0. An example that became infinite has no success.

    Raises: ValueError for a jump that has not learned its divergence, or these jumps,
        and for levels that do not lead from t_min to t_max.
    """
    needs_divergence(jump)
    x = floats_of_a_solve(as_data(x))
    if sigmas is None:
        count = default_num_evals(jump) if num_evals is None else num_evals
        sigmas = jnp.asarray(rising_levels(jump, sde, count), x.dtype)
    check_levels(sigmas, sde)
    check_jumps(jump, sigmas)
    levels = jnp.asarray(sigmas, x.dtype)

    def step(
        carried: tuple[Array, Array], ends: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        x, gained = carried
        x, more = carry_density(jump, x, *ends, cond)
        return (x, gained + more.astype(gained.dtype)), None

    low, high = (jnp.asarray(sde.log_alpha(t), x.dtype) for t in (sde.t_min, sde.t_max))
    start = x * expand_like(jnp.exp(-low), x), jnp.zeros(len(x), x.dtype)
    (end, gained), _ = jax.lax.scan(step, start, (levels[:-1], levels[1:]))
    latent = end * expand_like(jnp.exp(high), x)
    num_dims = math.prod(x.shape[1:])
    nats = prior_log_prob(latent, sde=sde) + num_dims * (gained + high - low)
    success = jnp.isfinite(nats)
    steps = jnp.full(len(x), len(levels) - 1, jnp.int32)
    unknown, none = jnp.full_like(nats, jnp.nan), jnp.zeros_like(nats)
    nats = jnp.where(success, nats, jnp.nan)
    rejected = jnp.zeros_like(steps)
    return LogProb(nats, none, unknown, latent, steps, steps, rejected, success)


MOST_EVALS = 8
"""Evaluations of a student, where nobody says how many."""


def default_num_evals(jump: Denoise | Jump) -> int:
    """The number of evaluations where nobody says: 8, or all that its levels allow."""
    known = reach_of(jump).levels
    return MOST_EVALS if known is None else min(MOST_EVALS, len(known) - 1)


def rising_levels(
    jump: Denoise | Jump, sde: SDE, num_evals: int
) -> Float[np.ndarray, " levels"]:
    """The levels of so many jumps from t_min to t_max.

    They are evenly apart among the levels that the jump knows; for one that knows all,
    even in log sigma.

    Args:
        jump: whose levels they are.
        sde: whose ends they have.
        num_evals: the number of jumps.

    Raises: ValueError for no jump, or more than there are levels to jump between.
    """
    known = reach_of(jump).levels
    most = math.inf if known is None else len(known) - 1
    if not 1 <= num_evals <= most:
        bound = "" if known is None else f", and at most {most}, of its levels"
        raise ValueError(f"num_evals is {num_evals}; it must be 1 or more{bound}.")
    if known is not None:
        levels = np.sort(np.asarray(known, np.float64))
        return levels[evenly_apart(len(known) - 1, num_evals)]
    return np.geomspace(*_ends(sde), num_evals + 1)


def evenly_apart(most: int, count: int) -> Int[np.ndarray, " places"]:
    """Places among most + 1 levels, first and last among them, for so many jumps."""
    return np.round(np.linspace(0, most, count + 1)).astype(int)


def check_levels(sigmas: Grid, sde: SDE) -> None:
    """Refuse levels that do not rise from t_min to t_max, unless they are traced.

    Raises: ValueError.
    """
    if is_traced((sigmas, sde)):
        return
    levels = np.asarray(sigmas, np.float64)
    ends = _ends(sde)
    rises = levels.ndim == 1 and len(levels) > 1 and (np.diff(levels) > 0).all()
    if not (rises and np.allclose(levels[[0, -1]], ends, rtol=CLOSE, atol=0)):
        raise ValueError(
            f"sigmas must increase from {ends[0]:g} to {ends[1]:g}, the levels of the "
            f"SDE at t_min and t_max, got {levels.tolist()}."
        )


def _ends(sde: SDE) -> tuple[float, float]:
    """The noise levels of an SDE at t_min and t_max, also while a program is traced."""
    with jax.ensure_compile_time_eval():
        return float(sde.sigma(sde.t_min)), float(sde.sigma(sde.t_max))
