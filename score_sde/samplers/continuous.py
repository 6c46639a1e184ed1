"""The probability-flow ODE and the reverse SDE, by any explicit solver of diffrax.

Both are solved for x = xt / alpha as a function of log sigma (`sde.rescaled_flow`),
where all SDEs are one, and are given and returned as xt. Every example has step sizes
of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.arrays import as_float, example_keys, expand_like, unbatched
from score_sde.integrate import Stats, check_times, integrate
from score_sde.sde import SDE, rescaled_flow
from score_sde.types import Array, Key, Scalar, Score

if TYPE_CHECKING:
    import diffrax
    import lineax as lx


class Solution(NamedTuple):
    """Where the solver ended. All but x are [batch]."""

    x: Array
    num_evals: Array
    """Evaluations of the score."""
    num_accepted: Array
    num_rejected: Array
    success: Array
    """False where the solver gave up or x is not finite: that x is no solution."""


def solve_ode(
    score: Score,
    sde: SDE,
    x: Array,
    *,
    t0: Scalar | None = None,
    t1: Scalar | None = None,
    times: Array | None = None,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    cond: Any = None,
) -> Solution:
    """Follow the probability flow from x at t0 to t1 (Song et al. 2021, eq. 13).

    By default from t_max to t_min, noise to data; the other way round it encodes.

    Args:
        x: xt at t0, [batch, *dims].
        times: a fixed grid of t instead of t0, t1 and the tolerances, one step of the
            solver per interval.
        solver: any explicit diffrax solver; Tsit5 if None.
    """
    import diffrax

    x = as_float(x)
    ends = _times(sde, t0, t1, times, x.dtype)
    log_sigmas = jnp.log(sde.sigma(ends))

    def one(x: Array, cond: Any) -> tuple[Array, Stats]:
        def drift(log_sigma: Any, x: Array, _: Any) -> Array:
            return rescaled_flow(
                x, log_sigma, sde=sde, score=unbatched(score), cond=cond
            )

        return integrate(
            diffrax.ODETerm(drift),
            x,
            log_sigmas,
            solver=diffrax.Tsit5() if solver is None else solver,
            adaptive=times is None,
            rtol=rtol,
            atol=atol,
        )

    last, stats = jax.vmap(one)(x / expand_like(sde.alpha(ends[0]), x), cond)
    return Solution(expand_like(sde.alpha(ends[-1]), x) * last, *stats)


def solve_sde(
    key: Key,
    score: Score,
    sde: SDE,
    x: Array,
    *,
    t0: Scalar | None = None,
    t1: Scalar | None = None,
    times: Array | None = None,
    num_steps: int = 500,
    solver: diffrax.AbstractSolver | None = None,
    adaptive: bool = False,
    rtol: float = 1e-2,
    atol: float = 1e-2,
    cond: Any = None,
) -> Solution:
    """Follow the reverse SDE from x at t0 back to t1 (Anderson 1982; Song 2021, eq. 6).

    In x = xt / alpha and log sigma it reads, with W running backwards,

        dx = 2 (x - D) dlog sigma + sqrt(2) sigma dW.

    The noise of example i is a function of (key, i).

    Args:
        x: xt at t0, by default t_max, [batch, *dims].
        times: a fixed grid of t, one step per interval; if None, num_steps steps even
            in log sigma.
        solver: any explicit diffrax SDE solver; Euler (Euler-Maruyama) if None. The
            noise is additive, so SRA1, ShARK and SPaRK apply.
        adaptive: choose steps by the tolerances; needs a solver with an error estimate
            (SPaRK, ShARK, SRA1) and the slower virtual Brownian tree.
    """
    import diffrax
    import lineax as lx

    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1.")
    solver = diffrax.Euler() if solver is None else solver
    x = as_float(x)
    ends = _times(sde, t0, t1, times, x.dtype)
    log_sigmas = jnp.log(sde.sigma(ends))
    if times is None and not adaptive:
        log_sigmas = jnp.linspace(log_sigmas[0], log_sigmas[-1], num_steps + 1)
    # Brownian paths run forwards: the clock is the log sigma that was passed so far.
    clock = log_sigmas[0] - log_sigmas
    levy: Any = diffrax.BrownianIncrement
    if isinstance(solver, diffrax.AbstractSRK):
        levy = diffrax.SpaceTimeLevyArea

    def one(x: Array, key: Key, cond: Any) -> tuple[Array, Stats]:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        path: diffrax.AbstractBrownianPath
        if adaptive:
            span = clock[-1] - clock[0]
            path = diffrax.VirtualBrownianTree(
                clock[0], clock[-1], span * 2**-12, shape, key, levy_area=levy
            )
        else:
            path = diffrax.UnsafeBrownianPath(shape, key, levy_area=levy)

        def drift(passed: Any, x: Array, _: Any) -> Array:
            log_sigma = log_sigmas[0] - passed
            flow = rescaled_flow(
                x, log_sigma, sde=sde, score=unbatched(score), cond=cond
            )
            return -2 * flow

        def diffusion(passed: Any, x: Array, _: Any) -> lx.AbstractLinearOperator:
            level = math.sqrt(2) * jnp.exp(log_sigmas[0] - passed)
            return lx.DiagonalLinearOperator(jnp.full_like(x, level))

        return integrate(
            diffrax.MultiTerm(
                diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)
            ),
            x,
            clock,
            solver=solver,
            adaptive=adaptive,
            rtol=rtol,
            atol=atol,
            gains=(0.1, 0.3),
        )

    keys = example_keys(key, x.shape[0])
    last, stats = jax.vmap(one)(x / expand_like(sde.alpha(ends[0]), x), keys, cond)
    return Solution(expand_like(sde.alpha(ends[-1]), x) * last, *stats)


def _times(
    sde: SDE, t0: Scalar | None, t1: Scalar | None, times: Array | None, dtype: Any
) -> Array:
    """The grid of t, or its two ends.

    Raises: ValueError for times that the SDE lacks, or given twice.
    """
    if times is None:
        t0 = sde.t_max if t0 is None else t0
        t1 = sde.t_min if t1 is None else t1
        check_times((t0, t1), sde)
        return jnp.stack([jnp.asarray(t, dtype) for t in (t0, t1)])
    if t0 is not None or t1 is not None:
        raise ValueError("give either times, or t0 and t1, not both.")
    check_times(times, sde)
    return jnp.asarray(times, dtype)
