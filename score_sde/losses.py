"""Denoising losses, one value per example, and what they average over.

The objective of every diffusion model is an integral over noise levels,

    E over log sigma ~ p of  weight(sigma) mean |D(x0 + sigma eps, sigma) - x0|^2,

so a loss here is a weight on the squared error of x0 and a distribution of sigma
(`noise_levels.py`). The same objective can be trained under any other distribution q
by multiplying with p / q, which changes the variance of its gradient alone
(Kingma and Gao 2023).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from score_sde.arrays import (
    as_data,
    as_labels,
    check_alike,
    example_keys,
    expand_like,
    mean_over_data,
    per_example,
    sum_over_data,
)
from score_sde.fields import checks_rules
from score_sde.noise_levels import NoiseLevels
from score_sde.rules import Finite, Positive
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Key, Points, Times

Weight = Callable[[Array], Array]
if TYPE_CHECKING:
    Sigma = Array
    Weights = Array
else:
    Sigma = Times
    """Noise levels of any shape."""
    Weights = Times
    """One weight for each sigma, of its shape and kind."""
WeightFunction = TypeVar("WeightFunction", bound=Callable[..., Array])


def denoising_loss(
    key: Key,
    denoise: Denoise,
    x0: Points,
    *,
    noise_levels: NoiseLevels,
    weight: Weight,
    reference: NoiseLevels | None = None,
    log_variance: Callable[[Array], Array] | None = None,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """Weighted squared error of the denoised data, per example.

    weight(sigma) mean |D(x0 + sigma eps, sigma) - x0|^2 (Karras et al. 2022, eq. 2;
    Vincent 2011).

    Args:
        key: one key, or one per example.
        denoise: the denoiser that is trained.
        x0: clean data, [batch, *dims].
        noise_levels: where sigma is drawn from.
        weight: a function of sigma, [batch] -> [batch].
        reference: the distribution that defines the objective, if it is another one;
            the loss is then multiplied by the ratio of their densities.
        log_variance: u(log sigma), learned jointly. The loss becomes
            loss / exp(u) + u, whose best u is the logarithm of the loss, so that all
            noise levels contribute alike (Karras et al. 2024, eq. 21).
        cond: the condition of the denoiser, or None.

    Returns:
        The loss, [batch].
    """
    key_sigma, key_eps = jr.split(key)
    x0 = as_data(x0, "x0")
    batch = x0.shape[0]
    sigma = noise_levels.draw(key_sigma, batch).astype(x0.dtype)
    eps = per_example(jr.normal, example_keys(key_eps, batch), x0)
    denoised = denoise(x0 + expand_like(sigma, x0) * eps, sigma, cond)
    error = check_alike("the denoised data", denoised, x0) - x0
    loss = weight(sigma) * mean_over_data(error**2)
    if reference is not None:
        loss = loss * reference.density(sigma) / noise_levels.density(sigma)
    if log_variance is not None:
        u = log_variance(jnp.log(sigma))
        loss = loss / jnp.exp(u) + u
    return loss + noise_levels.surrogate(sigma, loss)


def classification_loss(
    key: Key,
    logits: Callable[[Array, Array], Array],
    x0: Points,
    label: Int[Array | np.ndarray, " batch"],
    *,
    noise_levels: NoiseLevels,
) -> Float[Array, " batch"]:
    """-log p(label given x0 + sigma eps, sigma) in nats, per example.

    Its minimum is the classifier of noisy data whose gradient guides a sampler
    (Dhariwal and Nichol 2021, sec. 4).

    Args:
        key: one key, or one per example.
        logits: (x, sigma) -> [batch, classes].
        x0: clean data, [batch, *dims].
        label: the class of each example, int [batch].
        noise_levels: where sigma is drawn from.
    """
    key_sigma, key_eps = jr.split(key)
    x0 = as_data(x0, "x0")
    sigma = noise_levels.draw(key_sigma, len(x0)).astype(x0.dtype)
    eps = per_example(jr.normal, example_keys(key_eps, len(x0)), x0)
    log_probs = jax.nn.log_softmax(logits(x0 + expand_like(sigma, x0) * eps, sigma))
    label = as_labels(label, log_probs.shape[-1])
    return -jnp.take_along_axis(log_probs, label[:, None], axis=1)[:, 0]


def weighs_bound(weight: WeightFunction) -> WeightFunction:
    """Decorate a weight with which the loss is the variational bound on -log p.

    It is so if sigma is drawn from levels with `NoiseLevels.estimates_bound`.
    """
    weight.is_bound = True  # type: ignore[attr-defined]
    return weight


def is_bound(weight: Callable[..., Any]) -> bool:
    """Return True for a weight decorated by `weighs_bound`, also within a partial."""
    while isinstance(weight, functools.partial):
        weight = weight.func
    return getattr(weight, "is_bound", False)


# Weights. In terms of the noise eps and of the score s of x0 + sigma eps, the squared
# error of x0 is sigma^2 |eps error|^2 = sigma^4 |s error|^2.


@weighs_bound
def noise(sigma: Sigma) -> Weights:
    """Weight of the squared error of the noise (Ho et al. 2020, eq. 14): 1/sigma^2."""
    return 1 / sigma**2


@weighs_bound
def sigma_squared(sigma: Sigma) -> Weights:
    """Weight sigma^2 on the squared error of the score (Song and Ermon 2019, eq. 6).

    It is the number that `noise` gives: sigma^2 / sigma^4.
    """
    return noise(sigma)


def likelihood(sigma: Sigma, *, sde: SDE) -> Weights:
    """Weight g(t)^2 / 2 on the squared error of the score of xt (Song 2021b, eq. 7).

    With sigma drawn at uniform t, the loss times the number of dimensions and
    t_max - t_min bounds the negative log-likelihood, up to a constant.
    """
    t = sde.t_from_sigma(sigma)
    # The score of xt is that of xt / alpha, divided by alpha.
    return 0.5 * sde.diffusion_squared(t) / (sde.alpha(t) ** 2 * sigma**4)


@checks_rules
def edm(sigma: Sigma, *, sigma_data: Annotated[float, Positive] = 0.5) -> Weights:
    """Weight that is 1 on the raw network's error (Karras et al. 2022, table 1)."""
    return 1 / sigma**2 + 1 / sigma_data**2


@checks_rules
def min_snr(sigma: Sigma, *, gamma: Annotated[float, Positive] = 5.0) -> Weights:
    """Weight min(SNR, gamma), SNR = 1/sigma^2 (Hang et al. 2023)."""
    return jnp.minimum(1 / sigma**2, gamma)


@checks_rules
def soft_min_snr(
    sigma: Sigma, *, sigma_data: Annotated[float, Positive] = 0.5
) -> Weights:
    """Weight 1/(sigma^2 + sigma_data^2), a smooth minimum (Crowson 2024, eq. 12)."""
    return 1 / (sigma**2 + sigma_data**2)


@checks_rules
def sigmoid(sigma: Sigma, *, bias: Annotated[float, Finite] = -3.0) -> Weights:
    """Weight sigmoid(bias - log SNR) SNR (Kingma and Gao 2023; Hoogeboom et al. 2024).

    The sigmoid weighs the squared error of the noise.
    """
    return jax.nn.sigmoid(bias + 2 * jnp.log(sigma)) / sigma**2


WEIGHTS: dict[str, Callable[..., Array]] = {
    "noise": noise,
    "sigma_squared": sigma_squared,
    "likelihood": likelihood,
    "edm": edm,
    "min_snr": min_snr,
    "soft_min_snr": soft_min_snr,
    "sigmoid": sigmoid,
}


# Score matching without denoising: references for data of few dimensions.

ScoreOfX = Callable[[Array], Array]


def exact_score_matching(
    score: ScoreOfX, x: Float[Array, "batch dims"]
) -> Float[Array, " batch"]:
    """|s|^2 / 2 + trace of ds/dx, per example: [batch, dims] (Hyvarinen 2005, eq. 4).

    Its expectation is the squared error of the score up to a constant, with the score
    of the data unknown.
    """

    def one(x: Array) -> Array:
        jacobian = jax.jacfwd(lambda y: score(y[None])[0])(x)
        return jnp.trace(jacobian)

    return 0.5 * sum_over_data(score(x) ** 2) + jax.vmap(one)(x)


def sliced_score_matching(
    key: Key, score: ScoreOfX, x: Float[Array, "batch dims"]
) -> Float[Array, " batch"]:
    """Exact score matching with the trace estimated by one random slice.

    The variance-reduced form is |s|^2 / 2 + v . (ds/dx) v with v of random signs (Song
    et al. 2019b, eq. 8).

    Args:
        key: one key, or one per example.
        score: the score of x, [batch, dims] -> [batch, dims].
        x: data, [batch, dims].
    """
    v = per_example(jr.rademacher, example_keys(key, x.shape[0]), x)
    s, slope = jax.jvp(score, (x,), (v,))
    return 0.5 * sum_over_data(s**2) + sum_over_data(v * slope)
