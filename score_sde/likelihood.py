"""Exact log-densities by the probability flow, and bits per dimension.

The flow carries x at t_min to z at t_max, and (Chen et al. 2018; Song et al. 2021,
eq. 39)

    log p(x) = log prior(z) + integral of the divergence of the flow.

The integral is solved in x = xt / alpha and log sigma, together with the flow and by
one forward-mode pass that gives drift and divergence at once. The step sizes are each
example's own, chosen by the error of the state and of the log-density per dimension.
The solver is a Runge-Kutta method of diffrax, or the multistep rule of
`multistep_flow`, which takes half the evaluations and states its error.

Where the trace is estimated, each random probe is integrated by itself, so that their
spread is an error bar. Random traces average to the log-density, not to the density:
exp(nats), and whatever averages it, comes out too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from score_sde.arrays import (
    as_data,
    as_float,
    example_keys,
    expand_like,
    is_traced,
    sum_over_data,
)
from score_sde.divergences import DIVERGENCES as DIVERGENCES
from score_sde.divergences import Divergence
from score_sde.divergences import exact as exact
from score_sde.integrate import (
    Stats,
    check_times,
    floats_of_a_solve,
    flow_of,
    integrate,
)
from score_sde.sde import SDE, prior_log_prob
from score_sde.types import Array, Grid, Key, Level, Points, Scalar, Score

if TYPE_CHECKING:
    import diffrax


SOLVERS = ("dopri5", "multistep")
"""Solvers of `log_prob` that have a name: the field's RK45, and `multistep_flow`."""


class LogProb(NamedTuple):
    """Log-densities, with an entry per example in each field; 32 bits at least."""

    nats: Float[Array, " batch"]
    """log p(x), x taken as a point of the marginal at t_min."""
    probe_error: Float[Array, " batch"]
    """Standard error of nats over the probes: 0 if exact, NaN of a single probe."""
    solver_error: Float[Array, " batch"]
    """Error of nats by the solver, which 95 % of true ones are below; NaN: unknown.

    The sum of what each step states, so that few errors come near it; `multistep`
    alone states it, and what rounding adds is not in it."""
    latent: Float[Array, "batch *dims"]
    """The point at t_max to which the flow carries x; `solve_ode` leads back."""
    num_evals: Int[Array, " batch"]
    """Evaluations of drift and divergence, each one forward-mode pass."""
    num_accepted: Int[Array, " batch"]
    """Steps that the solver took."""
    num_rejected: Int[Array, " batch"]
    """Steps that it took back."""
    success: Bool[Array, " batch"]
    """False where the solver gave up: those nats are NaN."""


def log_prob(
    x: Points,
    *,
    sde: SDE,
    score: Score,
    key: Key | None = None,
    divergence: str | Divergence = "hutchinson",
    solver: str | diffrax.AbstractSolver | None = None,
    times: Grid | None = None,
    rtol: Scalar = 1e-5,
    atol: Scalar = 1e-5,
    prior: Callable[[Array], Array] | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    cond: Any = None,
) -> LogProb:
    """Log-density of x under the probability flow of a score.

    Args:
        x: a point of the marginal at t_min, [batch, *dims].
        sde: the forward process.
        score: score(xt, t, cond), shaped like xt.
        key: for a random divergence, one or one per example. The probes of example i
            are a function of (key, i), and the same along its whole path.
        divergence: a name of `DIVERGENCES`, or a function like them.
        solver: a name of `SOLVERS`, `multistep_flow.Multistep(order)`, whose order is 4
            by its name, or any explicit diffrax solver; Dopri5 if None.
        times: a fixed increasing grid of t, up to t_max, instead of the tolerances.
        rtol: relative tolerance, of the state (root mean square) and of the nats per
            dimension: at the mean of the data the state alone does not move.
        atol: absolute tolerance, likewise.
        prior: log-density at t_max in nats, [batch, *dims] -> [batch]; if None
            `prior_log_prob`, at most 2e-4 nats a dimension off on average (VE).
        adjoint: how diffrax differentiates the solve; if None in forward mode alone,
            and `jax.grad` needs one such as `diffrax.RecursiveCheckpointAdjoint()`.
        cond: the condition of the score, or None.

    Raises: ValueError for x of whole or complex numbers, an unknown divergence or
        solver, a random divergence without a key, and times that the SDE lacks or that
        don't lead to t_max.
    """
    divergence, x = _named(divergence), floats_of_a_solve(as_data(x))
    if divergence is not exact and key is None:
        raise ValueError("a random divergence needs a key; 'exact' needs none.")
    _check_grid(times, sde)
    ends = jnp.asarray((sde.t_min, sde.t_max) if times is None else times, x.dtype)
    flow = _Flow(sde, score, divergence, ends)
    keys = None if key is None else example_keys(key, x.shape[0])
    solve = partial(
        flow.solve,
        solver=_solver(solver),
        adaptive=times is None,
        rtol=rtol,
        atol=atol,
        adjoint=adjoint,
    )
    last, stats = jax.vmap(solve)(x / expand_like(sde.alpha(ends[0]), x), keys, cond)
    latent = expand_like(sde.alpha(ends[-1]), x) * last.x
    log_prior = prior_log_prob(latent, sde=sde) if prior is None else prior(latent)
    return flow.result(latent, log_prior, last, stats)


class _State(NamedTuple):
    """The state of one example that the solver integrates."""

    x: Array
    """xt / alpha, [*dims]."""
    gained: Array
    """What the log-density gained a dimension, [num_probes]."""
    error: Array
    """What the solver states of its error in nats a dimension; NaN if nothing."""


class _Flow(NamedTuple):
    """The probability flow between two times, together with its log-density."""

    sde: SDE
    score: Score
    divergence: Divergence
    times: Array

    def solve(
        self, x: Array, key: Key | None, cond: Any, *, solver: Any, **options: Any
    ) -> tuple[_State, Stats]:
        """Carry one example x = xt / alpha to the last time."""
        import diffrax

        def augmented(log_sigma: Any, state: Any, _: Any) -> _State:
            drift = flow_of(self.score, self.sde, cond)
            value, traces = self.divergence(lambda x: drift(log_sigma, x), state.x, key)
            return _State(value, traces / x.size, jnp.zeros_like(state.error))

        traces = jax.eval_shape(lambda: self.divergence(lambda x: x, x, key)[1])
        log_sigmas = jnp.log(self.sde.sigma(self.times))
        # A rule that is made for this flow says how it is to be run, and its error.
        prepared = getattr(solver, "prepared", None)
        if prepared is not None:
            log_sigmas, own = prepared(log_sigmas)
            options |= own
        last, stats = integrate(
            diffrax.ODETerm(augmented),
            _State(x, jnp.zeros(traces.shape, x.dtype), jnp.zeros((), x.dtype)),
            log_sigmas,
            solver=solver,
            norm=_norm_of_state_or_density,
            **options,
        )
        if prepared is None:
            last = last._replace(error=jnp.full_like(last.error, jnp.nan))
        return last, stats

    def result(
        self, latent: Array, log_prior: Array, last: _State, stats: Stats
    ) -> LogProb:
        """Put together the log-density of a batch of last states."""
        num_dims = math.prod(latent.shape[1:])
        # The change of variables from xt to xt / alpha, at either end.
        rescaling = self.sde.log_alpha(self.times[-1]) - self.sde.log_alpha(
            self.times[0]
        )
        per_dim = last.gained.mean(1) + rescaling.astype(latent.dtype)
        nats = log_prior + num_dims * per_dim
        success = stats.success & jnp.isfinite(nats)
        nats = jnp.where(success, nats, jnp.nan)
        return LogProb(
            nats,
            num_dims * _standard_error(last.gained, self.divergence),
            jnp.where(success, num_dims * last.error, jnp.nan),
            latent,
            *stats._replace(success=success),
        )


def _solver(solver: str | diffrax.AbstractSolver | None) -> diffrax.AbstractSolver:
    """Return the solver itself, or that of a name of `SOLVERS`.

    Dopri5 took four fifths of Tsit5's evaluations on trained digits at 1e-5.

    Raises: ValueError for another name.
    """
    import diffrax

    from score_sde.multistep_flow import Multistep

    if solver is None or solver == "dopri5":
        return diffrax.Dopri5()
    if solver == "multistep":
        return Multistep()
    if isinstance(solver, str):
        raise ValueError(f"unknown solver {solver!r}; choose from {list(SOLVERS)}.")
    return solver


def _check_grid(times: Grid | None, sde: SDE) -> None:
    """Refuse times, if there are any, that do not increase to the t_max of the SDE.

    Raises: ValueError.
    """
    if times is None:
        return
    check_times(times, sde)
    if is_traced((times, sde.t_max)):
        return
    first, last = np.asarray(times, np.float64)[[0, -1]]
    if first > last or not math.isclose(last, float(sde.t_max), rel_tol=1e-6):
        raise ValueError(
            f"times must increase to t_max = {sde.t_max}, got {first} to {last}."
        )


def _norm_of_state_or_density(error: _State) -> Array:
    """Norm of the error of (x, log-density per dimension): the larger of the two."""
    of_x = jnp.sqrt(jnp.mean(error.x**2))
    return jnp.maximum(of_x, jnp.abs(error.gained).max())


def _standard_error(
    estimates: Float[Array, "batch probes"], divergence: Divergence
) -> Float[Array, " batch"]:
    """Standard error of the mean over probes, [batch, num_probes] -> [batch]."""
    batch, num_probes = estimates.shape
    if divergence is exact:
        return jnp.zeros(batch, estimates.dtype)
    if num_probes == 1:
        return jnp.full(batch, jnp.nan, estimates.dtype)
    return estimates.std(1, ddof=1) / math.sqrt(num_probes)


def _named(divergence: str | Divergence) -> Divergence:
    if not isinstance(divergence, str):
        return divergence
    if divergence not in DIVERGENCES:
        raise ValueError(
            f"unknown divergence {divergence!r}; choose from {sorted(DIVERGENCES)}."
        )
    return DIVERGENCES[divergence]


def interpolate(
    latent: Float[Array, "batch *dims"],
    other: Float[Array, "batch *dims"],
    share: Level,
) -> Float[Array, "batch *dims"]:
    """Interpolate two latents along a great circle (Shoemake 1985).

    Their length, which decides where a Gaussian has its mass, is kept.

    Args:
        latent: [batch, *dims].
        other: shaped likewise.
        share: how far of the way, a scalar or [batch]: 0 gives `latent`, 1 `other`.
    """
    lengths = jnp.sqrt(sum_over_data(latent**2) * sum_over_data(other**2))
    cosine = jnp.clip(sum_over_data(latent * other) / lengths, -1, 1)
    angle = jnp.arccos(cosine)
    share = jnp.asarray(share, latent.dtype)
    # jnp.sinc has no hole at an angle of 0, where the circle is a straight line.
    sinc = lambda angle: jnp.sinc(angle / math.pi)  # noqa: E731
    first = (1 - share) * sinc((1 - share) * angle) / sinc(angle)
    second = share * sinc(share * angle) / sinc(angle)
    return expand_like(first, latent) * latent + expand_like(second, other) * other


def bits_per_dim(
    nats: ArrayLike, num_dims: int, *, num_levels: int | None = 256
) -> Array:
    """Negative log-likelihood per dimension, in bits, of data scaled to [-1, 1].

    Data of `num_levels` levels fill bins of width 2 / num_levels, so that the mass of
    a bin under the dequantised density is that density times the width:
    -nats / (num_dims log 2) + log2(num_levels / 2); 7 for 8 bits. For continuous data,
    `num_levels` None, there is no offset.

    Args:
        nats: log-densities of the dequantised data, any shape.
        num_dims: the number of dimensions of an example.
        num_levels: levels of the data as they are stored; None for continuous data.

    Raises: ValueError for no dimension, or fewer than two levels.

    Examples:
        A uniform density on [-1, 1]^2 gives 256 levels 8 bits a dimension:

        >>> print(bits_per_dim(-2 * math.log(2), num_dims=2))
        8.0
    """
    if num_dims < 1 or (num_levels is not None and num_levels < 2):
        raise ValueError(
            f"bits/dim need num_dims >= 1 and num_levels >= 2 or None, got {num_dims} "
            f"and {num_levels}."
        )
    offset = 0.0 if num_levels is None else math.log2(num_levels / 2)
    return -as_float(nats) / (num_dims * math.log(2)) + offset


def mean_and_error(values: ArrayLike) -> tuple[Array, Array]:
    """Mean over the data and its standard error, std / sqrt(count).

    Examples:
        >>> mean, error = mean_and_error([1.0, 2.0, 3.0])
        >>> print(f"{mean:.2f} +- {error:.2f}")
        2.00 +- 0.58
    """
    values = as_float(values)
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values))
