"""Corrections of a prediction of x0 that need no second evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from score_sde.arrays import expand_like
from score_sde.guidance.guided import Guided, network_evals
from score_sde.types import Array, Denoise, Scalar


def static_threshold(
    denoise: Denoise, *, low: float = -1.0, high: float = 1.0
) -> Guided:
    """x0 clipped to the range of the data (Saharia et al. 2022, sec. 2.3)."""
    if not low < high:
        raise ValueError(f"static_threshold needs low < high, got {low} and {high}.")
    return _corrected(denoise, lambda x0: jnp.clip(x0, low, high))


def dynamic_threshold(
    denoise: Denoise, *, percentile: float = 99.5, limit: float = 1.0
) -> Guided:
    """x0 clipped to [-s, s] and divided by s / limit (Saharia et al. 2022, sec. 2.3).

    s is the given percentile of |x0| in each example, and at least the limit, which is
    the range of the data.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; it must be > 0 and <= 100.")
    if not 0 < limit < math.inf:
        raise ValueError(f"limit is {limit}; it must be > 0.")

    def threshold(x0: Array) -> Array:
        size = jnp.abs(x0).reshape(len(x0), -1)
        s = jnp.quantile(size, jnp.asarray(percentile / 100, x0.dtype), axis=1)
        s = expand_like(jnp.maximum(s, limit), x0)
        return jnp.clip(x0, -s, s) * (limit / s)

    return _corrected(denoise, threshold)


def temperature(denoise: Denoise, tau: float = 0.9, *, sigma_data: float) -> Guided:
    """Towards p^(1/tau): the score times (sd^2 + sigma^2) / (tau sd^2 + sigma^2).

    1/tau at low noise, nothing at high noise. Exact for Gaussian data of standard
    deviation sigma_data = sd in every direction (Ingraham et al. 2023, app. B), the
    usual heuristic for others. tau < 1 sharpens.
    """
    for name, value in (("tau", tau), ("sigma_data", sigma_data)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be > 0.")

    def sharpened(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        noise = expand_like(sigma, x) ** 2
        factor = (sigma_data**2 + noise) / (tau * sigma_data**2 + noise)
        return x + factor * (denoise(x, sigma, cond) - x)

    return Guided(sharpened, lambda sigma: network_evals(denoise, sigma))


def _corrected(denoise: Denoise, correct: Callable[[Array], Array]) -> Guided:
    def corrected(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return correct(denoise(x, sigma, cond))

    return Guided(corrected, lambda sigma: network_evals(denoise, sigma))
