"""What a guided denoiser is, how much it costs, and the one combination of two.

    D = D_base + w (D_aim - D_base)

w = 1 is the aim alone, w = 0 the base alone, w > 1 goes past the aim. (Ho and Salimans
2022 count from the aim: their w is w - 1 here.) A weight is a number or a function of
sigma; where such a function gives 1, the base is not evaluated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import as_float, expand_like, is_traced
from score_sde.types import Array, Denoise, Scalar

Schedule = Callable[[Array], Array]
"""sigma, a scalar or [batch] -> weights of that shape."""
Weight = Scalar | Schedule


@dataclasses.dataclass(frozen=True)
class Guided:
    """A denoiser made of others, which knows how often it evaluates the network."""

    function: Denoise
    evals: Callable[[Array], Array]
    """sigma -> evaluations of one call there, in the shape of sigma. Two conditions
    that share one call of the network count as two: that call has twice the batch."""

    def __call__(self, x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return self.function(as_float(x), sigma, cond)


def network_evals(denoise: Denoise, sigma: Scalar) -> Array:
    """Evaluations of the network in one call of `denoise` at sigma: 1 if it is plain.

    `SampleResult.num_evals` counts calls of the denoiser; times this it is the cost in
    evaluations of the network.
    """
    sigma = jnp.asarray(sigma)
    if isinstance(denoise, Guided):
        return denoise.evals(sigma)
    return jnp.ones(sigma.shape, jnp.int32)


def interval(
    weight: Weight, low: float, high: float = math.inf, *, outside: float = 1.0
) -> Schedule:
    """The weight where low < sigma <= high, else `outside` (Kynkaanniemi et al. 2024).

    Raises: ValueError unless 0 <= low < high.
    """
    if not 0 <= low < high:
        raise ValueError(f"an interval needs 0 <= low < high, got {low} and {high}.")
    weight = checked(weight)

    def schedule(sigma: Array) -> Array:
        sigma = jnp.asarray(sigma)
        inside = (low < sigma) & (sigma <= high)
        return jnp.where(inside, weight_at(weight, sigma), outside)

    return schedule


def interpolated(sigmas: Sequence[float], weights: Sequence[float]) -> Schedule:
    """Weights at these levels, linear in log sigma between them, constant beyond.

    Raises: ValueError unless the levels are positive and ascend, with a finite weight
        for each.
    """
    if not len(sigmas) == len(weights) > 0:
        raise ValueError(f"{len(sigmas)} sigmas need as many weights, got {weights}.")
    levels = np.asarray([0.0, *sigmas, math.inf])
    if not (np.diff(levels) > 0).all():
        raise ValueError(f"sigmas must be > 0 and ascend, got {sigmas}.")
    known = np.asarray([checked(w) for w in weights], np.float64)

    def schedule(sigma: Array) -> Array:
        log_sigma = jnp.log(jnp.asarray(sigma, jnp.float32))
        at = jnp.log(jnp.asarray(sigmas, jnp.float32))
        return jnp.interp(log_sigma, at, jnp.asarray(known, jnp.float32))

    return schedule


def autoguidance(good: Denoise, bad: Denoise, weight: Weight) -> Guided:
    """Away from a worse model of the same data (Karras et al. 2024b).

    `bad` may also be the same model told something else, or any other denoiser.
    """

    def pair(x: Array, sigma: Scalar, cond: Any) -> tuple[Array, Array]:
        return good(x, sigma, cond), bad(x, sigma, cond)

    return combine(pair, good, bad, weight)


Pair = Callable[[Array, Scalar, Any], tuple[Array, Array]]
Finish = Callable[[Array, Array], Array]


def combine(
    pair: Pair,
    aim: Denoise,
    base: Denoise,
    weight: Weight,
    finish: Finish = lambda mixed, aim: mixed,
) -> Guided:
    """D_base + w (D_aim - D_base), at the cost of the aim alone where w is 1.

    Args: `pair`, both at once; `finish(mixed, D_aim)`, applied to the result.
    """
    weight = checked(weight)
    always = isinstance(weight, (int, float)) and weight == 1

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        def both() -> Array:
            there, here = pair(x, sigma, cond)
            w = expand_like(weight_at(weight, sigma), x)
            return finish(here + w * (there - here), there)

        if always:
            return aim(x, sigma, cond)
        if not callable(weight):
            return both()
        alone = (weight_at(weight, sigma) == 1).all()
        return jax.lax.cond(alone, lambda: aim(x, sigma, cond), both)

    def evals(sigma: Array) -> Array:
        there, here = (network_evals(d, sigma) for d in (aim, base))
        return jnp.where(weight_at(weight, sigma) == 1, there, there + here)

    return Guided(guided, evals)


def weight_at(weight: Weight, sigma: Scalar) -> Array:
    """The weight at sigma, a scalar or in the shape of sigma."""
    return jnp.asarray(weight(jnp.asarray(sigma)) if callable(weight) else weight)


def checked(weight: Weight) -> Weight:
    """The weight, if it is a function, traced, or finite.

    Raises: ValueError.
    """
    if callable(weight) or is_traced(weight):
        return weight
    if not np.isfinite(np.asarray(weight)).all():
        raise ValueError(
            f"weight is {weight}; it must be finite, or a function of sigma."
        )
    return weight
