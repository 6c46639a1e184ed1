"""Preconditioning: a raw network F becomes a denoiser, and a denoiser a score.

    D(x, sigma) = skip x + out F(in_ x, noise)         (Karras et al. 2022, eq. 7)

The functions `edm`, `vp`, `ve` and `iddpm` are the columns of their table 1; `subvp`,
`ve_ladder` and `chain` belong to other published networks: of the sub-VP process, and
of discrete levels. The others are the plain parameterisations of the literature in the
same form: the network sees xt of a variance-preserving process (or of the straight
line, for `velocity`) and log(sigma)/4, and its output is the noise, x0, v or velocity
of `predictions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde import schedules
from score_sde.arrays import as_float, check_alike, expand_like, wide
from score_sde.checks import check_level, check_time
from score_sde.fields import checks_rules
from score_sde.rules import Positive, at_least, one_of
from score_sde.sde import SDE, VP, SubVP
from score_sde.types import Array, Denoise, Level, Points, Score, Times


class Preconditioner(NamedTuple):
    """Coefficients of D at one noise level, each shaped like sigma."""

    skip: Float[Array, "*times"]
    out: Float[Array, "*times"]
    in_: Float[Array, "*times"]
    noise: Float[Array, "*times"]


Precondition = Callable[[Array], Preconditioner]


@checks_rules
def edm(
    sigma: Times, *, sigma_data: Annotated[float, Positive] = 0.5
) -> Preconditioner:
    """Unit-variance inputs and targets at every noise level (Karras 2022, sec. 5)."""
    sigma = as_float(sigma)
    total = jnp.hypot(sigma, jnp.full_like(sigma, sigma_data))
    return Preconditioner(
        skip=(sigma_data / total) ** 2,
        out=sigma * (sigma_data / total),
        in_=1 / total,
        noise=_log(sigma) / 4,
    )


@checks_rules
def consistency(
    sigma: Times,
    *,
    sigma_data: Annotated[float, Positive] = 0.5,
    sigma_min: Annotated[float, Positive] = 0.002,
) -> Preconditioner:
    """EDM's, with D = x at sigma_min and below it (Song et al. 2023, app. C).

    Args:
        sigma: the noise level, any shape.
        sigma_data: standard deviation of the data.
        sigma_min: where the flow ends.
    """
    sigma = as_float(sigma)
    above = jnp.maximum(sigma - sigma_min, 0)
    c = edm(sigma, sigma_data=sigma_data)
    skip = sigma_data**2 / (above**2 + sigma_data**2)
    return c._replace(skip=skip, out=above * sigma_data * c.in_)


@checks_rules
def vp(
    sigma: Times,
    *,
    beta_min: Annotated[float, Positive] = 0.1,
    beta_max: Annotated[float, Positive] = 20.0,
    num_steps: Annotated[int, at_least(1)] = 1000,
) -> Preconditioner:
    """Noise prediction of a VP network that was trained on t in [0, 1].

    Args:
        sigma: the noise level, any shape.
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
        num_steps: the network is told (num_steps - 1) t.
    """
    t = VP(beta_min=beta_min, beta_max=beta_max).t_from_sigma(sigma)
    return noise(sigma)._replace(noise=(num_steps - 1) * t)


@checks_rules
def subvp(
    sigma: Times,
    *,
    beta_min: Annotated[float, Positive] = 0.1,
    beta_max: Annotated[float, Positive] = 20.0,
    num_steps: Annotated[int, at_least(1)] = 1000,
) -> Preconditioner:
    """Noise prediction of a sub-VP network that was trained on t in [0, 1].

    The arguments are those of `vp`.
    """
    sde = SubVP(beta_min=beta_min, beta_max=beta_max)
    t = sde.t_from_sigma(sigma)
    return noise(sigma)._replace(in_=sde.alpha(t), noise=(num_steps - 1) * t)


def ve(sigma: Times) -> Preconditioner:
    """Noise prediction, up to its sign, of a VE network fed with x itself."""
    sigma = as_float(sigma)
    one = jnp.ones_like(sigma)
    return Preconditioner(one, sigma, one, _log(sigma) - math.log(2))


@checks_rules
def ve_ladder(
    sigma: Times,
    *,
    num_steps: Annotated[int, at_least(1)] = 1000,
    sigma_min: Annotated[float, Positive] = 0.02,
    sigma_max: Annotated[float, Positive] = 100.0,
) -> Preconditioner:
    """Noise prediction of a VE network that was fed the index of a level of a ladder.

    The ladder is geometric, the largest level first (Song et al. 2021, app. B); sigma
    gets the index of the level nearest in log sigma.

    Args:
        sigma: the noise level, any shape.
        num_steps: the number of levels.
        sigma_min: the smallest level.
        sigma_max: the largest level.

    Raises: ValueError unless 0 < sigma_min < sigma_max.
    """
    if sigma_min >= sigma_max:
        raise ValueError(
            f"ve_ladder needs sigma_min < sigma_max, got {sigma_min}, {sigma_max}."
        )
    sigma = as_float(sigma)
    place = (math.log(sigma_max) - _log(sigma)) / math.log(sigma_max / sigma_min)
    index = jnp.round(jnp.clip(place, 0, 1) * (num_steps - 1))
    return ve(sigma)._replace(noise=index)


@checks_rules
def iddpm(
    sigma: Times,
    *,
    num_steps: Annotated[int, at_least(1)] = 1000,
    c_1: Annotated[float, Positive] = 0.001,
    c_2: Annotated[float, Positive] = 0.008,
) -> Preconditioner:
    """Noise prediction of an improved-DDPM network, which knows a ladder of levels.

    The noise condition is the index of the level nearest to sigma, counted so that it
    grows with noise up to num_steps - 1; a sigma nearest to no noise at all has -1.
    """
    sigma = as_float(sigma)
    levels = jnp.asarray(schedules.iddpm_levels(num_steps, c_1, c_2), sigma.dtype)
    ascending = levels[::-1]
    middles = 0.5 * (ascending[1:] + ascending[:-1])
    index = jnp.searchsorted(middles, sigma) - 1
    return noise(sigma)._replace(noise=index.astype(levels.dtype))


@checks_rules
def chain(
    sigma: Times,
    *,
    beta_schedule: Annotated[str, one_of(schedules.BETA_SCHEDULES)] = "linear",
    num_train_timesteps: Annotated[int, at_least(1)] = 1000,
    beta_start: Annotated[float, Positive] = 1e-4,
    beta_end: Annotated[float, Positive] = 0.02,
    zero_terminal_snr: bool = False,
    timestep_scale: Annotated[float, Positive] = 1.0,
) -> Preconditioner:
    """Noise prediction of a network that was fed the timesteps of a discrete chain.

    The noise condition is timestep_scale times the timestep, from 0, whose level is
    sigma; between two of them, the fraction of the way in log sigma; outside, the
    nearest. Improved DDPM told its networks of 4,000 steps a quarter of the timestep.

    Args:
        sigma: the noise level, any shape.
        beta_schedule: a name of `schedules.BETA_SCHEDULES`.
        num_train_timesteps: the length of the chain.
        beta_start: the first beta.
        beta_end: the last beta.
        zero_terminal_snr: whether the chain ends without signal.
        timestep_scale: what the network was told of timestep 1.
    """
    levels = schedules.chain_levels(
        beta_schedule, num_train_timesteps, beta_start, beta_end, zero_terminal_snr
    )
    sigma = as_float(sigma)
    known = jnp.asarray(np.log(levels), sigma.dtype)
    steps = timestep_scale * jnp.arange(num_train_timesteps, dtype=sigma.dtype)
    return noise(sigma)._replace(noise=jnp.interp(_log(sigma), known, steps))


def noise(sigma: Times) -> Preconditioner:
    """Coefficients of an F that predicts the noise: D = x - sigma F (Ho 2020)."""
    sigma = as_float(sigma)
    scale = 1 / jnp.hypot(sigma, jnp.ones_like(sigma))
    return Preconditioner(jnp.ones_like(sigma), -sigma, scale, _log(sigma) / 4)


def x0(sigma: Times) -> Preconditioner:
    """Coefficients of an F that predicts the clean data: D = F."""
    sigma = as_float(sigma)
    return noise(sigma)._replace(skip=jnp.zeros_like(sigma), out=jnp.ones_like(sigma))


def v(sigma: Times) -> Preconditioner:
    """Coefficients of an F that predicts v = alpha eps - std x0 (Salimans 2022)."""
    sigma = as_float(sigma)
    scale = noise(sigma).in_
    return Preconditioner(scale**2, -sigma * scale, scale, _log(sigma) / 4)


def velocity(sigma: Times) -> Preconditioner:
    """Coefficients of an F that predicts the velocity eps - x0 (Lipman et al. 2022)."""
    sigma = as_float(sigma)
    scale = 1 / (1 + sigma)
    return Preconditioner(scale, -sigma * scale, scale, _log(sigma) / 4)


def _log(sigma: Array) -> Array:
    """Logarithm that is finite at 0 too, where D(x, 0) is x."""
    return jnp.log(jnp.maximum(sigma, jnp.finfo(sigma.dtype).tiny))


PRECONDITIONERS: dict[str, Callable[..., Preconditioner]] = {
    "edm": edm,
    "consistency": consistency,
    "vp": vp,
    "subvp": subvp,
    "ve": ve,
    "ve_ladder": ve_ladder,
    "iddpm": iddpm,
    "chain": chain,
    "noise": noise,
    "x0": x0,
    "v": v,
    "velocity": velocity,
}


def make_denoiser(
    network_fn: Callable[..., Array], precondition: Precondition
) -> Denoise:
    """Make the denoiser D(x, sigma, cond) of a network.

    Args:
        network_fn: (x, noise, cond) -> raw output, noise of shape [batch]. Channels of
            the output beyond those of x, which predict variances, have no part in D.
        precondition: one of the functions above with its options bound, as in
            `functools.partial(edm, sigma_data=0.5)`.

    Raises: ValueError, when called, for an output of another shape.

    Examples:
        A network whose output is 0 leaves the skip connection, which is half of x where
        the noise is as large as the data:

        >>> from functools import partial
        >>> denoise = make_denoiser(
        ...     lambda x, noise, cond: jnp.zeros_like(x), partial(edm, sigma_data=0.5)
        ... )
        >>> print(denoise(jnp.ones((1, 2)), 0.5).round(3))
        [[0.5 0.5]]
    """
    predict = make_denoiser_with_variance(network_fn, precondition)
    return lambda x, sigma, cond=None: predict(x, sigma, cond)[0]


def make_denoiser_with_variance(
    network_fn: Callable[..., Array], precondition: Precondition
) -> Callable[..., tuple[Array, Array]]:
    """Make (x, sigma, cond) -> (D, v), v the network's channels beyond those of x.

    If the network predicts variances, v is shaped like x, and within [-1, 1] in
    training (Nichol and Dhariwal 2021). The arguments are those of `make_denoiser`.
    """

    def predict(
        x: Points, sigma: Level, cond: Any = None
    ) -> tuple[Float[Array, "batch *dims"], Float[Array, "batch ..."]]:
        x, c = coefficients(precondition, x, sigma)
        skip, out, in_ = (expand_like(a, x) for a in (c.skip, c.out, c.in_))
        raw = network_fn(in_ * x, c.noise, cond)
        raw, v = raw[..., : x.shape[-1]], raw[..., x.shape[-1] :]
        return skip * x + out * check_alike("the network's output", raw, x), v

    return predict


def make_classifier(
    network_fn: Callable[..., Array], precondition: Precondition
) -> Callable[[Array, Level], Array]:
    """Make logits(x, sigma), [batch, classes], of `network_fn(in_ x, noise)`."""

    def logits(x: Points, sigma: Level) -> Float[Array, "batch classes"]:
        x, c = coefficients(precondition, x, sigma)
        return network_fn(expand_like(c.in_, x) * x, c.noise)

    return logits


def coefficients(
    precondition: Precondition, x: Points, sigma: Level
) -> tuple[Array, Preconditioner]:
    """Return x as floats, and the coefficients at the level of each example.

    Raises: ValueError for a sigma that is neither a scalar nor [batch], negative, NaN.
    """
    check_level(sigma)
    x = as_float(x)
    sigma = jnp.asarray(sigma, wide(x.dtype))
    expand_like(sigma, x)  # refuses what is neither a scalar nor [batch]
    c = precondition(jnp.broadcast_to(sigma, x.shape[:1]))
    return x, c._replace(noise=c.noise.astype(x.dtype))


def make_score(denoise: Denoise, sde: SDE) -> Score:
    """Make the score of an SDE at xt: (alpha D(xt / alpha, sigma) - xt) / std^2.

    Any denoiser serves any SDE, since it knows sigma alone. The score refuses a time
    that the SDE lacks.
    """

    def score(xt: Points, t: Level, cond: Any = None) -> Float[Array, "batch *dims"]:
        check_time(t, sde.t_max)
        xt = as_float(xt)
        alpha, std = expand_like(sde.alpha(t), xt), expand_like(sde.std(t), xt)
        x0 = denoise(xt / alpha, sde.sigma(t), cond)
        return (alpha * x0 - xt) / std**2

    return score
