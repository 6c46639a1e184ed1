"""Corrections of a prediction of x0 that need no second evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp

from score_sde.arrays import expand_like, flat
from score_sde.fields import checks_rules
from score_sde.guidance.guided import Guided, network_evals
from score_sde.rules import Finite, Positive, PositiveOrInfinite, Rule
from score_sde.samplers.memory import Memory
from score_sde.types import Array, Denoise, Scalar

Percentile = Rule("> 0 and <= 100", lambda v: 0 < v <= 100)


@checks_rules
def static_threshold(
    denoise: Denoise,
    *,
    low: Annotated[float, Finite] = -1.0,
    high: Annotated[float, Finite] = 1.0,
) -> Guided:
    """Clip x0 to the range of the data, [low, high] (Saharia et al. 2022, sec. 2.3).

    Raises: ValueError unless low < high, both finite.
    """
    if not low < high:
        raise ValueError(f"static_threshold needs low < high, got {low} and {high}.")
    return _corrected(denoise, lambda x0, x, sigma: jnp.clip(x0, low, high))


@checks_rules
def dynamic_threshold(
    denoise: Denoise,
    *,
    percentile: Annotated[float, Percentile] = 99.5,
    limit: Annotated[float, Positive] = 1.0,
    highest: Annotated[float, PositiveOrInfinite] = math.inf,
) -> Guided:
    """Clip x0 to [-s, s] and divide it by s / limit (Saharia et al. 2022, sec. 2.3).

    Args:
        denoise: the denoiser whose prediction is corrected.
        percentile: s is this percentile of |x0| in each example, and at least `limit`.
        limit: the range of the data, [-limit, limit].
        highest: s is at most this, so that one wild prediction is clipped rather than
            darkened; at `limit` itself the threshold is the static one.

    Raises: ValueError for a percentile outside (0, 100], a limit that is not > 0 and a
        highest below it.
    """
    if highest < limit:
        raise ValueError(
            f"dynamic_threshold needs limit <= highest, got {limit} and {highest}."
        )

    def threshold(x0: Array, x: Array, sigma: Scalar) -> Array:
        del x, sigma
        size = jnp.abs(flat(x0))
        s = jnp.quantile(size, jnp.asarray(percentile / 100, x0.dtype), axis=1)
        s = expand_like(jnp.clip(s, limit, highest), x0)
        return jnp.clip(x0, -s, s) * (limit / s)

    return _corrected(denoise, threshold)


@checks_rules
def temperature(
    denoise: Denoise,
    tau: Annotated[float, Positive] = 0.9,
    *,
    sigma_data: Annotated[float, Positive],
) -> Guided:
    """Sharpen towards p^(1/tau): the score times (sd^2 + sigma^2)/(tau sd^2 + sigma^2).

    The factor is 1/tau at low noise and 1 at high noise. It is exact for Gaussian data
    of standard deviation sigma_data = sd in every direction (Ingraham et al. 2023,
    app. B), and the usual heuristic for others.

    Args:
        denoise: the denoiser whose score is multiplied.
        tau: the temperature; below 1 sharpens.
        sigma_data: standard deviation of the data.

    Raises: ValueError for a tau or sigma_data that is not > 0.
    """

    def sharpened(x0: Array, x: Array, sigma: Scalar) -> Array:
        noise = expand_like(sigma, x) ** 2
        factor = (sigma_data**2 + noise) / (tau * sigma_data**2 + noise)
        return x + factor * (x0 - x)

    return _corrected(denoise, sharpened)


def _corrected(
    denoise: Denoise, correct: Callable[[Array, Array, Scalar], Array]
) -> Guided:
    """The denoiser with correct(x0, x, sigma) for its result; it keeps its memory."""

    def corrected(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return correct(denoise(x, sigma, cond), x, sigma)

    def cost(sigma: Array) -> Array:
        return network_evals(denoise, sigma)

    memory: Memory | None = getattr(denoise, "memory", None)
    if memory is None:
        return Guided(corrected, cost)
    recall = memory.recall

    def recalled(known: Any, x: Array, sigma: Scalar, cond: Any) -> tuple[Array, Any]:
        x0, after = recall(known, x, sigma, cond)
        return correct(x0, x, sigma), after

    return Guided(corrected, cost, Memory(memory.start, recalled))
