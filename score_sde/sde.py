"""Stochastic differential equations: what noise is added to data, and how fast.

    xt = alpha(t) (x0 + sigma(t) eps)            the marginal of every SDE here
    dx = f(t) x dt + g(t) dW                     f = d log_alpha/dt
                                                 g^2 = alpha^2 d(sigma^2)/dt

An SDE is the two formulas `log_alpha(t)` and `sigma(t)` (Karras et al. 2022, eq. 2;
Song et al. 2021, sec. 3). The rest follows from them, without cancellation, so that
float32 holds from t = 1e-5 up to t_max.

To make one of your own: subclass `SDE`, decorate with `@pytree`, write the two
formulas. Sampling, losses and likelihood need nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from score_sde.arrays import (
    as_data,
    as_float,
    check_alike,
    example_keys,
    expand_like,
    per_example,
    sum_over_data,
)
from score_sde.checks import check_time
from score_sde.fields import pytree, require
from score_sde.rules import Positive
from score_sde.types import Array, Key, Level, Points, Scalar, Score, Times

TIMES_TO_1 = ("t_min < t_max <= 1", lambda sde: sde.t_min < sde.t_max <= 1)
TIMES_BELOW_1 = ("t_min < t_max < 1", lambda sde: sde.t_min < sde.t_max < 1)


@pytree
class SDE:
    """A forward process on t_min <= t <= t_max; each method maps t of any shape.

    Raises: ValueError unless 0 < t_min < t_max.
    """

    t_min: Annotated[float, Positive] = dataclasses.field(default=1e-5, kw_only=True)
    t_max: Annotated[float, Positive] = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        require(self, ("t_min < t_max", lambda sde: sde.t_min < sde.t_max))

    @abstractmethod
    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        """Logarithm of the scale of the data in xt."""

    @abstractmethod
    def sigma(self, t: Times) -> Float[Array, "*times"]:
        """Noise level relative to the data; grows with t."""

    def t_from_sigma(self, sigma: Times) -> Float[Array, "*times"]:
        """Invert `sigma`: the time at which the noise level is this, any shape.

        Here by bisecting log t, clipped to [t_min, t_max]; the SDEs below give closed
        forms instead. Derivatives, of the parameters of the SDE too, are right up to
        the third.
        """
        sigma = as_float(sigma)
        found = jax.lax.stop_gradient(self._bisected(sigma))
        # Newton's step leaves the root where it is, and has its derivative; of a second
        # one, the next two are right too.
        t = found
        for _ in range(2):
            t = t - (self.sigma(t) - sigma) / _derivative(self.sigma, t)
        ends = jnp.asarray(self.t_min, t.dtype), jnp.asarray(self.t_max, t.dtype)
        lowest, highest = map(self.sigma, ends)
        return jnp.where((sigma < lowest) | (sigma > highest), found, t)

    def _bisected(self, sigma: Array) -> Array:
        """The time of this noise level to rounding, without derivatives."""
        low = jnp.full_like(sigma, jnp.log(self.t_min))
        high = jnp.full_like(sigma, jnp.log(self.t_max))

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = 0.5 * (low + high)
            below = self.sigma(jnp.exp(middle)) < sigma
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        # log(1e5) / 2^48 is below the spacing of float64 around it.
        low, high = jax.lax.fori_loop(0, 48, halve, (low, high))
        return jnp.exp(0.5 * (low + high))

    def alpha(self, t: Times) -> Float[Array, "*times"]:
        """Scale of the data in xt."""
        return jnp.exp(self.log_alpha(t))

    def std(self, t: Times) -> Float[Array, "*times"]:
        """Standard deviation of the noise in xt: alpha * sigma."""
        return self.alpha(t) * self.sigma(t)

    def log_snr(self, t: Times) -> Float[Array, "*times"]:
        """Logarithm of the signal-to-noise ratio alpha^2 / std^2 (Kingma 2021)."""
        return -2.0 * jnp.log(self.sigma(t))

    def drift_rate(self, t: Times) -> Float[Array, "*times"]:
        """f(t) = d log_alpha/dt, so that the forward drift is f(t) xt."""
        return _derivative(self.log_alpha, t)

    def diffusion_squared(self, t: Times) -> Float[Array, "*times"]:
        """g(t)^2 = alpha^2 d(sigma^2)/dt; at t = 0 the limit from above."""
        t = as_float(t)
        # There sigma may have no derivative, like the root of VP; sqrt(tiny) is 1e-19.
        t = jnp.maximum(t, math.sqrt(jnp.finfo(t.dtype).tiny))
        return self.alpha(t) ** 2 * _derivative(lambda t: self.sigma(t) ** 2, t)


def _derivative(function: Callable[[Array], Array], t: Times) -> Array:
    """The derivative of a function that acts on each element of t."""
    t = as_float(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


@pytree
class VP(SDE):
    """The variance-preserving SDE, beta linear in t (Song et al. 2021, eq. 11)."""

    beta_min: Annotated[float, Positive] = 0.1
    beta_max: Annotated[float, Positive] = 20.0

    def __post_init__(self) -> None:
        ordered = ("beta_min <= beta_max", lambda sde: sde.beta_min <= sde.beta_max)
        require(self, ordered, TIMES_TO_1)

    def integral_beta(self, t: Times) -> Float[Array, "*times"]:
        """B(t): the integral of beta from 0 to t."""
        t = as_float(t)
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return -0.5 * self.integral_beta(t)

    def sigma(self, t: Times) -> Float[Array, "*times"]:
        return jnp.sqrt(jnp.expm1(self.integral_beta(t)))

    def t_from_sigma(self, sigma: Times) -> Float[Array, "*times"]:
        return self.t_from_integral_beta(jnp.log1p(as_float(sigma) ** 2))

    def t_from_integral_beta(self, integral: Array) -> Array:
        """Solve integral_beta(t) = integral for t, in the form that can't cancel."""
        slope = self.beta_max - self.beta_min
        root = jnp.sqrt(self.beta_min**2 + 2 * slope * integral)
        return 2 * integral / (self.beta_min + root)


@pytree
class SubVP(VP):
    """The sub-VP SDE: less noise than VP at every t (Song et al. 2021, eq. 12)."""

    def sigma(self, t: Times) -> Float[Array, "*times"]:
        return 2 * jnp.sinh(0.5 * self.integral_beta(t))

    def t_from_sigma(self, sigma: Times) -> Float[Array, "*times"]:
        return self.t_from_integral_beta(2 * jnp.arcsinh(0.5 * as_float(sigma)))


@pytree
class VE(SDE):
    """The variance-exploding SDE, sigma geometric in t (Song et al. 2021, eq. 9, 30).

    At t = 0 the data carry the noise sigma_min, as in the published models.
    """

    sigma_min: Annotated[float, Positive] = 0.01
    sigma_max: Annotated[float, Positive] = 50.0

    def __post_init__(self) -> None:
        ordered = ("sigma_min < sigma_max", lambda sde: sde.sigma_min < sde.sigma_max)
        require(self, ordered, TIMES_TO_1)

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return jnp.zeros_like(as_float(t))

    def sigma(self, t: Times) -> Float[Array, "*times"]:
        # A power, since exp(t log ratio) doubles the error of g^2 in float32.
        return self.sigma_min * jnp.power(self.sigma_max / self.sigma_min, as_float(t))

    def t_from_sigma(self, sigma: Times) -> Float[Array, "*times"]:
        log_ratio = jnp.log(self.sigma_max / self.sigma_min)
        return jnp.log(as_float(sigma) / self.sigma_min) / log_ratio


@pytree
class EDM(SDE):
    """The SDE of EDM, alpha = 1 and sigma = t (Karras et al. 2022)."""

    t_min: Annotated[float, Positive] = dataclasses.field(default=0.002, kw_only=True)
    t_max: Annotated[float, Positive] = dataclasses.field(default=80.0, kw_only=True)

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return jnp.zeros_like(as_float(t))

    def sigma(self, t: Times) -> Float[Array, "*times"]:
        return as_float(t)

    def t_from_sigma(self, sigma: Times) -> Float[Array, "*times"]:
        return as_float(sigma)


@pytree
class CosineVP(SDE):
    """The variance-preserving SDE with alpha = cos(pi t / 2) (Nichol 2021).

    sigma = tan(pi t / 2), and log_alpha = -log(1 + sigma^2) / 2 as in every
    variance-preserving process. The tangent is written with 1 - t, which is exact
    in floating point near t = 1, where the cosine cancels.
    """

    t_max: Annotated[float, Positive] = dataclasses.field(default=0.999, kw_only=True)

    def __post_init__(self) -> None:
        require(self, TIMES_BELOW_1)

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return -0.5 * jnp.log1p(self.sigma(t) ** 2)

    def sigma(self, t: Times) -> Float[Array, "*times"]:
        t = as_float(t)
        return jnp.sin(0.5 * jnp.pi * t) / jnp.sin(0.5 * jnp.pi * (1 - t))

    def t_from_sigma(self, sigma: Times) -> Float[Array, "*times"]:
        return jnp.arctan(as_float(sigma)) / (0.5 * jnp.pi)


@pytree
class StraightLine(SDE):
    """The straight line xt = (1 - t) x0 + t eps of flow matching (Lipman 2022)."""

    t_max: Annotated[float, Positive] = dataclasses.field(default=0.999, kw_only=True)

    def __post_init__(self) -> None:
        require(self, TIMES_BELOW_1)

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return jnp.log1p(-as_float(t))

    def sigma(self, t: Times) -> Float[Array, "*times"]:
        t = as_float(t)
        return t / (1 - t)

    def t_from_sigma(self, sigma: Times) -> Float[Array, "*times"]:
        sigma = as_float(sigma)
        return sigma / (1 + sigma)


def perturb(
    x0: Points, eps: Points, t: Level, *, sde: SDE
) -> Float[Array, "batch *dims"]:
    """Noise clean data: xt = alpha(t) x0 + std(t) eps.

    Args:
        x0: clean data, [batch, *dims].
        eps: standard normal noise, shaped like x0.
        t: a scalar or [batch], from 0 to t_max.
        sde: the forward process.

    Raises: ValueError for whole numbers, eps or t of another shape, t out of range.
    """
    check_time(t, sde.t_max)
    x0, eps = as_data(x0, "x0"), as_float(eps)
    check_alike("eps", eps, x0)
    return expand_like(sde.alpha(t), x0) * x0 + expand_like(sde.std(t), x0) * eps


def forward_drift(xt: Points, t: Level, *, sde: SDE) -> Float[Array, "batch *dims"]:
    """Drift of the forward SDE: f(t) xt, shaped like xt. Times it lacks are refused."""
    check_time(t, sde.t_max)
    return expand_like(sde.drift_rate(t), xt) * xt


def reverse_drift(
    xt: Points, t: Level, *, sde: SDE, score: Score, cond: Any = None
) -> Float[Array, "batch *dims"]:
    """Drift of the SDE that runs back in time: f xt - g^2 score (Anderson 1982)."""
    g_squared = expand_like(sde.diffusion_squared(t), xt)
    return forward_drift(xt, t, sde=sde) - g_squared * score(xt, t, cond)


def probability_flow(
    xt: Points, t: Level, *, sde: SDE, score: Score, cond: Any = None
) -> Float[Array, "batch *dims"]:
    """dx/dt of the ODE with the SDE's marginals: f xt - g^2 score / 2 (Song 2021)."""
    g_squared = expand_like(sde.diffusion_squared(t), xt)
    return forward_drift(xt, t, sde=sde) - 0.5 * g_squared * score(xt, t, cond)


def rescaled_flow(
    x: Array, log_sigma: Scalar, *, sde: SDE, score: Score, cond: Any = None
) -> Array:
    """The probability flow of x = xt / alpha in log sigma: dx/dlog sigma = x - D.

    In these variables the flow of every SDE is the same (Karras et al. 2022, eq. 4)
    and smooth at every scale, and neither the drift of xt nor its divergence has to
    cancel. From the score: x - D(x, sigma) = -alpha sigma^2 score(alpha x, t).
    """
    t = sde.t_from_sigma(jnp.exp(log_sigma))
    alpha = expand_like(sde.alpha(t), x)
    found = check_alike("the score", score(alpha * x, t, cond), x)
    return -alpha * expand_like(sde.sigma(t), x) ** 2 * found


def prior_sample(
    key: Key, shape: tuple[int, ...], *, sde: SDE, dtype: Any = None
) -> Float[Array, "batch *dims"]:
    """Draw x at t_max from N(0, std(t_max)^2).

    Args:
        key: one key, of which example i depends on (key, i) alone; or one per example.
        shape: [batch, *dims].
        sde: the forward process.
        dtype: of the draws; JAX's default float if None.
    """
    like = jnp.zeros(shape, dtype)
    eps = per_example(jr.normal, example_keys(key, shape[0]), like)
    return expand_like(sde.std(sde.t_max), eps) * eps


def prior_log_prob(x: Points, *, sde: SDE) -> Float[Array, " batch"]:
    """Log-density of N(0, std(t_max)^2) in nats: [batch, *dims] -> [batch]."""
    x = as_float(x)
    log_std = jnp.log(jnp.asarray(sde.std(sde.t_max), x.dtype))
    z = x * jnp.exp(-log_std)
    return sum_over_data(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_std)


SDES: dict[str, Callable[..., SDE]] = {
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "edm": EDM,
    "cosine_vp": CosineVP,
    "straight_line": StraightLine,
}
"""Name -> class; a user's own are added."""
