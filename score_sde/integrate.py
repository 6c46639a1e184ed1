"""One diffrax solve of one example, with honest counts and an honest verdict.

Samplers and likelihood map it over the batch, so that every example has step sizes of
its own and no device waits for another inside the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import (
    as_float,
    in_full_precision,
    is_traced,
    unbatched,
    wide,
)
from score_sde.fields import checks_rules
from score_sde.rules import NonNegative
from score_sde.sde import SDE, rescaled_flow
from score_sde.types import Array, Scalar, Score

if TYPE_CHECKING:
    import diffrax

MAX_STEPS = 4096


class Stats(NamedTuple):
    """Scalars for one example; [batch] once they are mapped."""

    num_evals: Array
    """Evaluations of the drift, each of them one of the network."""
    num_accepted: Array
    """Steps that the solver took."""
    num_rejected: Array
    """Steps that it took back."""
    success: Array
    """False if the solver gave up or the state is not finite."""


@checks_rules
@in_full_precision
def integrate(
    terms: diffrax.AbstractTerm,
    y: Any,
    times: Array,
    *,
    solver: diffrax.AbstractSolver,
    adaptive: bool,
    rtol: Annotated[Scalar, NonNegative],
    atol: Annotated[Scalar, NonNegative],
    norm: Callable[[Any], Array] | None = None,
    gains: tuple[float, float] = (0.3, 0.4),
    limits: tuple[float, float | None] = (10.0, None),
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> tuple[Any, Stats]:
    """Solve from times[0] to times[-1]; if not adaptive, by one step per interval.

    A solve that gave up returns NaN: its last state would pass for a result.

    Args:
        terms: what is integrated.
        y: the state of one example at times[0], any pytree.
        times: the grid, of which an adaptive solve takes the ends alone.
        solver: any explicit diffrax solver.
        adaptive: choose step sizes by the tolerances.
        rtol: relative tolerance.
        atol: absolute tolerance.
        norm: norm of the scaled error; root mean square of the whole state if None.
        gains: proportional and integral gain of the step-size controller. A purely
            integral one steps too far after an estimate that is small by chance.
        limits: how many times longer than the last a step may be; the longest step.
        adjoint: how the solve is differentiated; forward mode alone if None.

    Returns: the state at times[-1], NaN without success, and what the solve took.

    Raises: ValueError for tolerances that are no tolerances.
    """
    import diffrax

    evals(solver)  # refuses what can't be counted
    controller: diffrax.AbstractStepSizeController
    if adaptive:
        controller = _controller(rtol, atol, norm, gains, limits)
        # A first step of a hundredth, rather than two evaluations to choose one.
        first_step, max_steps = (times[-1] - times[0]) / 100, MAX_STEPS
    else:
        controller, first_step = diffrax.StepTo(times), None
        max_steps = len(times) - 1
    solution = diffrax.diffeqsolve(
        terms,
        solver,
        times[0],
        times[-1],
        first_step,
        y,
        stepsize_controller=controller,
        adjoint=diffrax.ForwardMode() if adjoint is None else adjoint,
        max_steps=max_steps,
        throw=False,
    )
    return _last_and_stats(solution, solver)


def _last_and_stats(
    solution: diffrax.Solution, solver: diffrax.AbstractSolver
) -> tuple[Any, Stats]:
    """Take the last state of a solve, and what it took to get there."""
    import diffrax

    assert solution.ys is not None
    once, per_step = evals(solver)
    last = jax.tree.map(lambda a: a[-1], solution.ys)
    finite = jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(last)]).all()
    success = finite & (solution.result == diffrax.RESULTS.successful)
    last = jax.tree.map(lambda a: jnp.where(success, a, jnp.nan), last)
    steps = solution.stats["num_steps"]
    return last, Stats(
        num_evals=once + per_step * steps,
        num_accepted=solution.stats["num_accepted_steps"],
        num_rejected=solution.stats["num_rejected_steps"],
        success=success,
    )


def _controller(
    rtol: Scalar,
    atol: Scalar,
    norm: Callable[[Any], Array] | None,
    gains: tuple[float, float],
    limits: tuple[float, float | None],
) -> diffrax.AbstractStepSizeController:
    """Make the step-size controller of an adaptive solve."""
    import diffrax

    from score_sde.step_sizes import StopsAtNaN

    options: dict[str, Any] = {} if norm is None else {"norm": norm}
    (proportional, integral), (factor, longest) = gains, limits
    return StopsAtNaN(
        diffrax.PIDController(
            rtol=rtol,
            atol=atol,
            pcoeff=proportional,
            icoeff=integral,
            factormax=factor,
            dtmax=longest,
            # dtmin ends a solve that jumps; else it would reject for ever.
            dtmin=1e-7,
            force_dtmin=False,
            **options,
        )
    )


def check_times(times: Any, sde: SDE) -> None:
    """Refuse a grid of t that turns round, or leaves the times of the SDE above 0.

    What is traced has no values to check and passes; the rest is checked, inside
    `jax.jit` too.

    Raises: ValueError.
    """
    shape = jnp.shape(times) if hasattr(times, "shape") else (len(times),)
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"times must be one row of at least two, got shape {shape}.")
    if is_traced(times):
        return
    values = np.asarray(times, np.float64)
    steps = np.diff(values)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"times must increase or decrease, got {values}.")
    # t_max may have been rounded to float32.
    last = math.inf if is_traced(sde.t_max) else float(sde.t_max) * (1 + 1e-6)
    if not 0 < values.min() < values.max() <= last:
        raise ValueError(
            f"times must be above 0 and at most t_max = {sde.t_max}, got {values}."
        )


def floats_of_a_solve(x: Any) -> Array:
    """Make x an array of floats of 32 bits at least, in which a solve can be accurate.

    A step of a solve is smaller than the rounding of 16 bits.

    Raises: ValueError for complex x.
    """
    x = as_float(x)
    return x.astype(wide(x.dtype))


def flow_of(score: Score, sde: SDE, cond: Any) -> Callable[[Any, Array], Array]:
    """Make drift(log_sigma, x) of one example x = xt / alpha, in the type of x."""

    def of_its_type(xt: Array, t: Scalar, cond: Any = None) -> Array:
        return score(xt, t, cond).astype(xt.dtype)

    def drift(log_sigma: Any, x: Array) -> Array:
        return rescaled_flow(
            x, log_sigma, sde=sde, score=unbatched(of_its_type), cond=cond
        )

    return drift


def evals(solver: diffrax.AbstractSolver) -> tuple[int, int]:
    """Count evaluations of the drift, (once, per step), of an explicit diffrax solver.

    Raises: ValueError for an implicit solver, whose evaluations vary, and which would
    form a dense Jacobian of the whole example; for halved steps of a Runge-Kutta
    method, which has an error estimate of its own and fails in forward mode (diffrax
    0.7.2).
    """
    import diffrax

    if isinstance(solver, diffrax.AbstractImplicitSolver):
        raise ValueError(
            f"{type(solver).__name__} is implicit; use an explicit solver."
        )
    if isinstance(solver, diffrax.HalfSolver):
        if isinstance(solver.solver, diffrax.AbstractRungeKutta):
            raise ValueError(
                f"give {type(solver.solver).__name__} itself instead of HalfSolver: it "
                "estimates its own error."
            )
        # Two half steps, and a whole one for the error.
        once, per_step = evals(solver.solver)
        return once, 3 * per_step
    stated = getattr(solver, "evals_once_and_per_step", None)
    if stated is not None:
        return stated
    tableau = getattr(solver, "tableau", None)
    if tableau is None:  # Euler, EulerHeun, ReversibleHeun, ...
        return 0, 1
    stages = getattr(tableau, "num_stages", None) or len(tableau.b_sol)
    if getattr(tableau, "fsal", False):
        return 1, stages - 1
    return 0, stages
