"""Guided denoisers: what they cost, and the one combination of two.

    D = D_base + w (D_target - D_base)

w = 1 is the target alone, w = 0 the base alone, w > 1 goes past the target. (Ho and
Salimans 2022 count from the target: their w is w - 1 here.) A weight is a number or a
function of sigma; where such a function gives 1, the base is not evaluated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from score_sde.arrays import as_float, as_levels, expand_like, is_traced
from score_sde.samplers.memory import Memory
from score_sde.types import Array, Denoise, Jump, Level, Points, Scalar, Times

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
    memory: Memory | None = None
    """What `sample` carries from step to step, if the guidance depends on the past."""

    def __call__(
        self, x: Points, sigma: Level, cond: Any = None
    ) -> Float[Array, "batch *dims"]:
        if self.memory is not None:
            raise ValueError(
                "this guidance depends on the steps before (it has momentum), which "
                "`sample` alone carries: give it there as it is, or set momentum to 0."
            )
        return self.function(as_float(x), sigma, cond)


def network_evals(denoise: Denoise | Jump, sigma: Times) -> Int[Array, "*times"]:
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
    """Make a weight that holds for low < sigma <= high, else `outside`.

    Source: Kynkaanniemi et al. 2024.

    Raises: ValueError unless 0 <= low < high, and for a weight that is not finite.

    Examples:
        >>> weight = interval(3.0, 0.2, 5.0)
        >>> print([float(weight(sigma)) for sigma in (0.1, 1.0, 10.0)])
        [1.0, 3.0, 1.0]
    """
    if not 0 <= low < high:
        raise ValueError(f"an interval needs 0 <= low < high, got {low} and {high}.")
    weight = check_weight(weight)

    def schedule(sigma: Array) -> Array:
        sigma = as_levels(sigma)
        inside = (low < sigma) & (sigma <= high)
        return jnp.where(inside, weight_at(weight, sigma), outside)

    return schedule


def interpolated(sigmas: Sequence[float], weights: Sequence[float]) -> Schedule:
    """Make a weight linear in log sigma between these levels, and constant beyond.

    Raises: ValueError unless the levels are positive and ascend, with a finite weight
        for each.

    Examples:
        >>> weight = interpolated((0.1, 10.0), (1.0, 3.0))
        >>> print(f"{weight(0.01):.1f} {weight(1.0):.1f} {weight(80.0):.1f}")
        1.0 2.0 3.0
    """
    if not len(sigmas) == len(weights) > 0:
        raise ValueError(f"{len(sigmas)} sigmas need as many weights, got {weights}.")
    levels = np.asarray([0.0, *sigmas, math.inf])
    if not (np.diff(levels) > 0).all():
        raise ValueError(f"sigmas must be > 0 and ascend, got {sigmas}.")
    known = np.asarray([check_weight(w) for w in weights], np.float64)

    def schedule(sigma: Array) -> Array:
        log_sigma = jnp.log(jnp.asarray(sigma, jnp.float32))
        at = jnp.log(jnp.asarray(sigmas, jnp.float32))
        return jnp.interp(log_sigma, at, jnp.asarray(known, jnp.float32))

    return schedule


def autoguidance(denoise: Denoise, worse: Denoise, weight: Weight) -> Guided:
    """Guide away from a worse model of the same data (Karras et al. 2024b).

    Args:
        denoise: the model.
        worse: the weaker one; it may also be the same model told something else, or
            any other denoiser.
        weight: a number, or a function of sigma such as `interval`.

    Raises: ValueError for a weight that is not finite.
    """

    def both(x: Array, sigma: Scalar, cond: Any) -> tuple[Array, Array]:
        return denoise(x, sigma, cond), worse(x, sigma, cond)

    return combine(both, denoise, worse, weight)


Pair = Callable[[Array, Scalar, Any], tuple[Array, Array]]
"""(x, sigma, cond) -> (D_target, D_base)."""


class Branches(NamedTuple):
    """The terms of a combination of two denoisers, at one call."""

    x: Array
    sigma: Scalar
    target: Array
    """D_target."""
    base: Array
    """D_base."""
    weight: Array
    """The weight, shaped to multiply x."""


def linear(at: Branches) -> Array:
    """D_base + w (D_target - D_base)."""
    return at.base + at.weight * (at.target - at.base)


def combine(
    both: Pair,
    target: Denoise,
    base: Denoise,
    weight: Weight,
    mix: Callable[[Branches], Array] = linear,
) -> Guided:
    """Combine two denoisers, at the cost of the target alone where w is 1.

    Args:
        both: target and base at once.
        target: the denoiser that w = 1 is.
        base: the denoiser to go away from; here it is asked for its cost alone.
        weight: a number, or a function of sigma.
        mix: the combination, which at w = 1 must be the target.

    Raises: ValueError for a weight that is not finite.
    """

    def without_memory(memory: Any, at: Branches) -> tuple[Array, Any]:
        return mix(at), memory

    recall, evals = combination(both, target, base, weight, without_memory)
    return Guided(lambda x, sigma, cond=None: recall((), x, sigma, cond)[0], evals)


def combination(
    both: Pair,
    target: Denoise,
    base: Denoise,
    weight: Weight,
    mix: Callable[[Any, Branches], tuple[Array, Any]],
) -> tuple[Callable[..., tuple[Array, Any]], Callable[[Array], Array]]:
    """The combination with a memory, as `Memory.recall` is, and what a call costs.

    Args:
        both: target and base at once.
        target: the denoiser that w = 1 is.
        base: the denoiser to go away from; here it is asked for its cost alone.
        weight: a number, or a function of sigma.
        mix: (memory, branches) -> (x0, the memory after this); not asked where w is 1.

    Raises: ValueError for a weight that is not finite.
    """
    weight = check_weight(weight)
    always = isinstance(weight, (int, float)) and weight == 1

    def recall(memory: Any, x: Array, sigma: Scalar, cond: Any) -> tuple[Array, Any]:
        def alone() -> tuple[Array, Any]:
            return target(x, sigma, cond), memory

        def mixed() -> tuple[Array, Any]:
            denoised, away_from = both(x, sigma, cond)
            w = expand_like(weight_at(weight, sigma), x)
            return mix(memory, Branches(x, sigma, denoised, away_from, w))

        if always:
            return alone()
        if not callable(weight):
            return mixed()
        return jax.lax.cond((weight_at(weight, sigma) == 1).all(), alone, mixed)

    def evals(sigma: Array) -> Array:
        of_target, of_base = (network_evals(d, sigma) for d in (target, base))
        alone = weight_at(weight, sigma) == 1
        return jnp.where(alone, of_target, of_target + of_base)

    return recall, evals


def weight_at(weight: Weight, sigma: Scalar) -> Array:
    """The weight at sigma, a scalar or in the shape of sigma."""
    return jnp.asarray(weight(as_levels(sigma)) if callable(weight) else weight)


def check_weight(weight: Weight) -> Weight:
    """Return the weight itself, if it is a function, traced, or finite.

    Raises: ValueError for a number that is not finite.
    """
    if callable(weight) or is_traced(weight):
        return weight
    if not np.isfinite(np.asarray(weight)).all():
        raise ValueError(
            f"weight is {weight}; it must be finite, or a function of sigma."
        )
    return weight
