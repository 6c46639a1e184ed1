"""The probability-flow ODE and the reverse SDE, by any explicit solver of diffrax.

Both are solved for x = xt / alpha as a function of log sigma (`sde.rescaled_flow`),
where all SDEs are one, and are given and returned as xt. Every example has step sizes
of its own.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import example_keys, expand_like, is_traced
from score_sde.checks import warn_without_noise
from score_sde.fields import checks_rules
from score_sde.integrate import (
    Stats,
    check_times,
    floats_of_a_solve,
    flow_of,
    integrate,
)
from score_sde.rules import at_least
from score_sde.sde import SDE
from score_sde.types import Array, Grid, Key, Points, Scalar, Score

if TYPE_CHECKING:
    import diffrax
    import lineax as lx


class Solution(NamedTuple):
    """The point where a solver ended, and what it took; all but x are [batch]."""

    x: Array
    """xt at t1, [batch, *dims], of 32 bits at least."""
    num_evals: Array
    """Evaluations of the score."""
    num_accepted: Array
    """Steps that the solver took."""
    num_rejected: Array
    """Steps that it took back."""
    success: Array
    """False where the solver gave up or x is not finite: that x is NaN."""


def solve_ode(
    score: Score,
    sde: SDE,
    x: Points,
    *,
    t0: Scalar | None = None,
    t1: Scalar | None = None,
    times: Grid | None = None,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    adjoint: diffrax.AbstractAdjoint | None = None,
    cond: Any = None,
) -> Solution:
    """Follow the probability flow from x at t0 to t1 (Song et al. 2021, eq. 13).

    By default from t_max to t_min, noise to data; the other way round it encodes. By
    default it can be differentiated in forward mode alone (`jax.jvp`); for `jax.grad`
    give `adjoint=diffrax.RecursiveCheckpointAdjoint()`.

    Args:
        score: score(xt, t, cond), shaped like xt.
        sde: the forward process.
        x: xt at t0, [batch, *dims].
        t0: where to begin; t_max if None.
        t1: where to end; t_min if None.
        times: a fixed grid of t instead of t0, t1 and the tolerances, one step of the
            solver per interval.
        solver: any explicit diffrax solver; Tsit5 if None.
        rtol: relative tolerance.
        atol: absolute tolerance.
        adjoint: how diffrax differentiates the solve; forward mode if None.
        cond: the condition of the score, or None.

    Raises: ValueError for complex x, for times that the SDE lacks, and for an implicit
        solver.
    """
    import diffrax

    x = floats_of_a_solve(x)
    ends = _times(sde, t0, t1, times, x.dtype)
    log_sigmas = jnp.log(sde.sigma(ends))
    if not is_traced(ends) and np.asarray(ends)[0] > np.asarray(ends)[-1]:
        warn_without_noise(x, sde.std(ends[0]))

    def one(x: Array, cond: Any) -> tuple[Array, Stats]:
        drift = flow_of(score, sde, cond)
        return integrate(
            diffrax.ODETerm(lambda log_sigma, x, _: drift(log_sigma, x)),
            x,
            log_sigmas,
            solver=diffrax.Tsit5() if solver is None else solver,
            adaptive=times is None,
            rtol=rtol,
            atol=atol,
            adjoint=adjoint,
        )

    last, stats = jax.vmap(one)(x / expand_like(sde.alpha(ends[0]), x), cond)
    return Solution(expand_like(sde.alpha(ends[-1]), x) * last, *stats)


@checks_rules
def solve_sde(
    key: Key,
    score: Score,
    sde: SDE,
    x: Points,
    *,
    t0: Scalar | None = None,
    t1: Scalar | None = None,
    times: Grid | None = None,
    num_steps: Annotated[int, at_least(1)] = 500,
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
        key: one key, or one per example.
        score: score(xt, t, cond), shaped like xt.
        sde: the forward process.
        x: xt at t0, [batch, *dims].
        t0: where to begin; t_max if None.
        t1: where to end; t_min if None.
        times: a fixed grid of t, one step per interval; if None, num_steps steps even
            in log sigma.
        num_steps: of the grid that is even in log sigma.
        solver: any explicit diffrax SDE solver; Euler (Euler-Maruyama) if None. The
            noise is additive, so SRA1, ShARK and SPaRK apply.
        adaptive: choose steps by the tolerances; needs a solver with an error estimate
            (SPaRK, ShARK, SRA1) and the slower virtual Brownian tree.
        rtol: relative tolerance of an adaptive solve.
        atol: absolute tolerance of an adaptive solve.
        cond: the condition of the score, or None.

    Raises: ValueError for complex x, times that the SDE lacks, an implicit solver.
    """
    x = floats_of_a_solve(x)
    ends = _times(sde, t0, t1, times, x.dtype)
    log_sigmas = jnp.log(sde.sigma(ends))
    warn_without_noise(x, sde.std(ends[0]))
    if times is None and not adaptive:
        log_sigmas = jnp.linspace(log_sigmas[0], log_sigmas[-1], num_steps + 1)
    reverse = _Reverse(score, sde, log_sigmas)
    solve = jax.vmap(
        partial(reverse.solve, solver=solver, adaptive=adaptive, rtol=rtol, atol=atol)
    )
    keys = example_keys(key, x.shape[0])
    last, stats = solve(x / expand_like(sde.alpha(ends[0]), x), keys, cond)
    return Solution(expand_like(sde.alpha(ends[-1]), x) * last, *stats)


class _Reverse(NamedTuple):
    """The reverse SDE of one example x = xt / alpha over a grid of log sigma."""

    score: Score
    sde: SDE
    log_sigmas: Array

    @property
    def clock(self) -> Array:
        """The log sigma that was passed so far: Brownian paths run forwards."""
        return self.log_sigmas[0] - self.log_sigmas

    def solve(
        self,
        x: Array,
        key: Key,
        cond: Any,
        *,
        solver: diffrax.AbstractSolver | None,
        adaptive: bool,
        **tolerances: Any,
    ) -> tuple[Array, Stats]:
        """Carry x to the end of the grid."""
        import diffrax
        import lineax as lx

        solver = diffrax.Euler() if solver is None else solver

        flow = flow_of(self.score, self.sde, cond)

        def drift(passed: Any, x: Array, _: Any) -> Array:
            return -2 * flow(self.log_sigmas[0] - passed, x)

        def diffusion(passed: Any, x: Array, _: Any) -> lx.AbstractLinearOperator:
            level = math.sqrt(2) * jnp.exp(self.log_sigmas[0] - passed)
            return lx.DiagonalLinearOperator(jnp.full_like(x, level))

        path = self.path(x, key, solver=solver, adaptive=adaptive)
        return integrate(
            diffrax.MultiTerm(
                diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)
            ),
            x,
            self.clock,
            solver=solver,
            adaptive=adaptive,
            gains=(0.1, 0.3),
            **tolerances,
        )

    def path(
        self, x: Array, key: Key, *, solver: diffrax.AbstractSolver, adaptive: bool
    ) -> diffrax.AbstractBrownianPath:
        """Make the Brownian path that the key means, of the kind the solver asks."""
        import diffrax

        clock, shape = self.clock, jax.ShapeDtypeStruct(x.shape, x.dtype)
        levy: Any = diffrax.BrownianIncrement
        if isinstance(solver, diffrax.AbstractSRK):
            levy = diffrax.SpaceTimeLevyArea
        if not adaptive:
            return diffrax.UnsafeBrownianPath(shape, key, levy_area=levy)
        tolerance = (clock[-1] - clock[0]) * 2**-12
        return diffrax.VirtualBrownianTree(
            clock[0], clock[-1], tolerance, shape, key, levy_area=levy
        )


def _times(
    sde: SDE, t0: Scalar | None, t1: Scalar | None, times: Grid | None, dtype: Any
) -> Array:
    """Return the grid of t, or its two ends.

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
