"""Exact log-densities by the probability flow, and bits per dimension.

The flow carries x at t_min to z at t_max, and (Chen et al. 2018; Song et al. 2021,
eq. 39)

    log p(x) = log prior(z) + integral of the divergence of the flow.

The integral is solved in x = xt / alpha and log sigma, together with the flow and by
one forward-mode pass that gives drift and divergence at once. The step sizes are each
example's own, chosen by the error of the state and of the log-density per dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike

from score_sde.arrays import example_keys, expand_like, unbatched
from score_sde.integrate import Stats, integrate
from score_sde.sde import SDE, prior_log_prob, rescaled_flow
from score_sde.types import Array, Key, Score

if TYPE_CHECKING:
    import diffrax


class LogProb(NamedTuple):
    """One entry per example in each field."""

    nats: Array
    """log p(x), x taken as a point of the marginal at t_min."""
    latent: Array
    """Where the flow carries x at t_max, [batch, *dims]."""
    num_evals: Array
    """Evaluations of drift and divergence, each one forward-mode pass."""
    num_accepted: Array
    num_rejected: Array
    success: Array
    """False where the solver gave up: those nats are not a log-density."""


Drift = Callable[[Array], Array]
Divergence = Callable[[Drift, Array, Key | None], tuple[Array, Array]]
"""(drift, x, key) -> (drift at x, trace of its Jacobian), for one example."""


def exact(drift: Drift, x: Array, key: Key | None) -> tuple[Array, Array]:
    """The trace by one tangent per dimension: num_dims times the work."""
    del key
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    value, columns = jax.vmap(lambda v: jax.jvp(drift, (x,), (v,)), out_axes=(None, 0))(
        basis
    )
    return value, jnp.trace(columns.reshape(x.size, x.size))


def hutchinson(drift: Drift, x: Array, key: Key | None) -> tuple[Array, Array]:
    """V . J v with v of random signs: unbiased, one tangent (Hutchinson 1989)."""
    assert key is not None
    return _probed(drift, x, jr.rademacher(key, x.shape, x.dtype))


def hutchinson_gaussian(drift: Drift, x: Array, key: Key | None) -> tuple[Array, Array]:
    """V . J v with v standard normal; its variance is larger (Grathwohl 2019)."""
    assert key is not None
    return _probed(drift, x, jr.normal(key, x.shape, x.dtype))


def _probed(drift: Drift, x: Array, v: Array) -> tuple[Array, Array]:
    value, tangent = jax.jvp(drift, (x,), (v,))
    return value, (v * tangent).sum()


DIVERGENCES: dict[str, Divergence] = {
    "exact": exact,
    "hutchinson": hutchinson,
    "hutchinson_gaussian": hutchinson_gaussian,
}


def log_prob(
    x: Array,
    *,
    sde: SDE,
    score: Score,
    key: Key | None = None,
    divergence: str | Divergence = "hutchinson",
    solver: diffrax.AbstractSolver | None = None,
    times: Array | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    prior: Callable[[Array], Array] | None = None,
    cond: Any = None,
) -> LogProb:
    """Log-density of x under the probability flow of a score.

    Args:
        x: a point of the marginal at t_min, [batch, *dims].
        key: for a random divergence. The probe of example i is a function of (key, i)
            and the same along its whole path, so that the flow stays smooth; keys may
            also be given one per example.
        divergence: a name of `DIVERGENCES`, or a function like them.
        solver: any explicit diffrax solver; Tsit5 if None.
        times: a fixed increasing grid of t instead of the tolerances.
        rtol, atol: of the state, root mean square, and of the nats per dimension. The
            state alone does not do: where it stands still, at the mean of the data, it
            has no error at all.
        prior: log-density at t_max in nats, [batch, *dims] -> [batch]; by default
            `prior_log_prob`. The marginal of the data at t_max differs from it by
            their mean and variance there, which is below 0.01 nats a dimension.
    Raises: ValueError for an unknown divergence, or a random one without a key.
    """
    import diffrax

    divergence = _named(divergence)
    if divergence is not exact and key is None:
        raise ValueError("a random divergence needs a key; 'exact' needs none.")
    num_dims = math.prod(x.shape[1:])
    ends = jnp.asarray((sde.t_min, sde.t_max) if times is None else times, x.dtype)

    def one(x: Array, key: Key | None, cond: Any) -> tuple[tuple[Array, Array], Stats]:
        def augmented(log_sigma: Any, state: Any, _: Any) -> tuple[Array, Array]:
            def drift(x: Array) -> Array:
                return rescaled_flow(
                    x, log_sigma, sde=sde, score=unbatched(score), cond=cond
                )

            value, trace = divergence(drift, state[0], key)
            return value, trace / num_dims

        return integrate(
            diffrax.ODETerm(augmented),
            (x, jnp.zeros((), x.dtype)),
            jnp.log(sde.sigma(ends)),
            solver=diffrax.Tsit5() if solver is None else solver,
            adaptive=times is None,
            rtol=rtol,
            atol=atol,
            norm=_of_state_or_density,
        )

    keys = None if key is None else example_keys(key, x.shape[0])
    alpha = sde.alpha(ends)
    start = x / expand_like(alpha[0], x)
    (last, gained), stats = jax.vmap(one)(start, keys, cond)
    latent = expand_like(alpha[-1], x) * last
    log_prior = prior_log_prob(latent, sde=sde) if prior is None else prior(latent)
    # The change of variables from xt to xt / alpha, at either end.
    rescaling = sde.log_alpha(ends[-1]) - sde.log_alpha(ends[0])
    nats = log_prior + num_dims * (gained + rescaling.astype(x.dtype))
    success = stats.success & jnp.isfinite(nats)
    return LogProb(nats, latent, *stats._replace(success=success))


def _of_state_or_density(error: tuple[Array, Array]) -> Array:
    return jnp.maximum(jnp.sqrt(jnp.mean(error[0] ** 2)), jnp.abs(error[1]))


def _named(divergence: str | Divergence) -> Divergence:
    if not isinstance(divergence, str):
        return divergence
    if divergence not in DIVERGENCES:
        raise ValueError(
            f"unknown divergence {divergence!r}; choose from {sorted(DIVERGENCES)}."
        )
    return DIVERGENCES[divergence]


def bits_per_dim(
    nats: ArrayLike, num_dims: int, *, num_levels: int | None = 256
) -> Array:
    """Negative log-likelihood per dimension, in bits, of data scaled to [-1, 1].

    Data of `num_levels` levels fill bins of width 2 / num_levels, so that the mass of
    a bin under the dequantised density is that density times the width:
    -nats / (num_dims log 2) + log2(num_levels / 2); 7 for 8 bits. For continuous data,
    `num_levels` None, there is no offset.

    Args: `nats`, log-densities of the dequantised data, any shape.
    """
    offset = 0.0 if num_levels is None else math.log2(num_levels / 2)
    return -jnp.asarray(nats) / (num_dims * math.log(2)) + offset


def mean_and_error(values: ArrayLike) -> tuple[Array, Array]:
    """Mean over the data and its standard error, std / sqrt(count)."""
    values = jnp.asarray(values)
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values))
