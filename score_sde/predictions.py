"""Predictions that a network may make, and how to get from one to another.

Every route passes through (x0, eps), with xt = alpha x0 + std eps:

    noise           eps                          Ho et al. 2020
    x0              x0
    v               alpha eps - std x0           Salimans and Ho 2022
    velocity        eps - x0                     Lipman et al. 2022, Liu et al. 2022
    score           -eps / std                   Song et al. 2021
    posterior_mean  E[xs given xt, x0], s < t    Ho et al. 2020, eq. 7
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float

from score_sde.arrays import expand_like
from score_sde.types import Array, Level, Points


class Prediction(NamedTuple):
    """Two pure functions between a predicted value and (x0, eps)."""

    decode: Callable[[Array, Array, Array, Array], tuple[Array, Array]]
    """(value, xt, alpha, std) -> (x0, eps)."""
    encode: Callable[[Array, Array, Array, Array], Array]
    """(x0, eps, alpha, std) -> value."""


def _from_noise(eps: Array, xt: Array, alpha: Array, std: Array) -> tuple[Array, Array]:
    return (xt - std * eps) / alpha, eps


def _from_x0(x0: Array, xt: Array, alpha: Array, std: Array) -> tuple[Array, Array]:
    return x0, (xt - alpha * x0) / std


def _from_v(v: Array, xt: Array, alpha: Array, std: Array) -> tuple[Array, Array]:
    total = alpha**2 + std**2  # 1 for a variance-preserving process
    return (alpha * xt - std * v) / total, (std * xt + alpha * v) / total


def _from_velocity(
    velocity: Array, xt: Array, alpha: Array, std: Array
) -> tuple[Array, Array]:
    total = alpha + std  # 1 for the straight line
    return (xt - std * velocity) / total, (xt + alpha * velocity) / total


PREDICTIONS = {
    "noise": Prediction(_from_noise, lambda x0, eps, alpha, std: eps),
    "x0": Prediction(_from_x0, lambda x0, eps, alpha, std: x0),
    "v": Prediction(_from_v, lambda x0, eps, alpha, std: alpha * eps - std * x0),
    "velocity": Prediction(_from_velocity, lambda x0, eps, alpha, std: eps - x0),
    "score": Prediction(
        lambda score, xt, alpha, std: _from_noise(-std * score, xt, alpha, std),
        lambda x0, eps, alpha, std: -eps / std,
    ),
}


def posterior_mean(alpha_s: Array, std_s: Array) -> Prediction:
    """Mean of q(xs given xt, x0) of the chain that passes from level s to t > s.

    With a = alpha_t / alpha_s and v = std_t^2 - a^2 std_s^2, the variance that the
    chain adds between them (Ho et al. 2020, eq. 7; Kingma et al. 2021, eq. 27):

        mean = (a std_s^2 xt + alpha_s v x0) / std_t^2.

    Args:
        alpha_s: the scale of the data at level s, shaped to multiply xt.
        std_s: the standard deviation of the noise there, shaped likewise.
    """

    def coefficients(alpha: Array, std: Array) -> tuple[Array, Array]:
        ratio = alpha / alpha_s
        added = std**2 - (ratio * std_s) ** 2
        return ratio * (std_s / std) ** 2, alpha_s * added / std**2

    def decode(mean: Array, xt: Array, alpha: Array, std: Array) -> tuple[Array, Array]:
        of_xt, of_x0 = coefficients(alpha, std)
        return _from_x0((mean - of_xt * xt) / of_x0, xt, alpha, std)

    def encode(x0: Array, eps: Array, alpha: Array, std: Array) -> Array:
        of_xt, of_x0 = coefficients(alpha, std)
        return of_xt * (alpha * x0 + std * eps) + of_x0 * x0

    return Prediction(decode, encode)


def convert(
    value: Points,
    xt: Points,
    *,
    source: str | Prediction,
    target: str | Prediction,
    alpha: Level,
    std: Level,
) -> Float[Array, "batch *dims"]:
    """Express a prediction made at xt as another one.

    Args:
        value: the prediction, shaped like xt.
        xt: where it was made, [batch, *dims].
        source: what it is, a name of `PREDICTIONS` or a `Prediction`.
        target: what it shall be, likewise.
        alpha: the scale of the data in xt, a scalar or [batch].
        std: the standard deviation of the noise in xt, a scalar or [batch].

    Raises: ValueError for an unknown name.
    """
    alpha, std = expand_like(alpha, xt), expand_like(std, xt)
    x0, eps = _named(source).decode(value, xt, alpha, std)
    return _named(target).encode(x0, eps, alpha, std)


def _named(prediction: str | Prediction) -> Prediction:
    if not isinstance(prediction, str):
        return prediction
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"unknown prediction {prediction!r}; choose from {sorted(PREDICTIONS)}."
        )
    return PREDICTIONS[prediction]
