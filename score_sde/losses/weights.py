"""Weights on the squared error of x0, by noise level.

In terms of the noise eps and of the score s of x0 + sigma eps, the squared error of x0
is sigma^2 |eps error|^2 = sigma^4 |s error|^2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import jax
import jax.numpy as jnp

from score_sde.fields import checks_rules
from score_sde.rules import Finite, Positive
from score_sde.sde import SDE
from score_sde.types import Array, Times

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


def uniform(sigma: Sigma) -> Weights:
    """Weight 1 on the squared error of x0 itself."""
    return jnp.ones_like(sigma)


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


def truncated_snr(sigma: Sigma) -> Weights:
    """Weight max(SNR, 1), SNR = 1/sigma^2 (Salimans and Ho 2022, eq. 9)."""
    return jnp.maximum(1 / sigma**2, 1)


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
    "uniform": uniform,
    "noise": noise,
    "sigma_squared": sigma_squared,
    "likelihood": likelihood,
    "edm": edm,
    "truncated_snr": truncated_snr,
    "min_snr": min_snr,
    "soft_min_snr": soft_min_snr,
    "sigmoid": sigmoid,
}
