"""Moves between data and noise: where editing starts, and translation."""

from __future__ import annotations

from typing import Annotated, Any

import jax.random as jr
from jaxtyping import Float

from score_sde.arrays import example_keys, expand_like, per_example
from score_sde.fields import checks_rules
from score_sde.rules import up_to
from score_sde.samplers import solve_ode
from score_sde.sde import SDE
from score_sde.types import Array, Key, Level, Score


@checks_rules
def tail(sigmas: Array, strength: Annotated[float, up_to(1)]) -> Array:
    """Cut a grid to its last levels, a share `strength` of its steps (Meng 2022).

    Raises: ValueError unless 0 < strength <= 1.
    """
    num_steps = len(sigmas) - 1
    return sigmas[num_steps - max(1, round(strength * num_steps)) :]


def noised(
    key: Key, x0: Float[Array, "batch *dims"], sigma: Level
) -> Float[Array, "batch *dims"]:
    """Noise x0 to level sigma, to sample on; example i depends on (key, i)."""
    eps = per_example(jr.normal, example_keys(key, len(x0)), x0)
    return x0 + expand_like(sigma, x0) * eps


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
    example whose solve gave up is NaN.

    Args:
        score: score(xt, t, cond), shaped like xt.
        sde: the forward process.
        x0: clean data, [batch, *dims].
        cond_from: the condition of x0.
        cond_to: the condition of the result.
        rtol: relative tolerance of both solves.
        atol: absolute tolerance of both solves.
    """
    alpha = expand_like(sde.alpha(sde.t_min), x0)
    options: dict[str, Any] = {"rtol": rtol, "atol": atol}
    encoded = solve_ode(
        score, sde, alpha * x0, t0=sde.t_min, t1=sde.t_max, cond=cond_from, **options
    )
    return solve_ode(score, sde, encoded.x, cond=cond_to, **options).x / alpha
