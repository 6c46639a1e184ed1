"""Adaptive projected guidance: the part of the push that saturates, and the rest.

With D_c and D_n the conditional and the other prediction, and d = D_c - D_n,

    D_c + (w - 1) (d_orthogonal + eta d_parallel)

where d_parallel lies along D_c. Before, d may be given momentum over the steps and a
bound on its length (Sadat et al. 2024, alg. 1).
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import jax.numpy as jnp

from score_sde.arrays import expand_like, sum_over_data
from score_sde.fields import checks_rules
from score_sde.guidance.conditional import null_condition, two_branches
from score_sde.guidance.guided import (
    Branches,
    Guided,
    Weight,
    combination,
)
from score_sde.guidance.needs import needs_condition
from score_sde.rules import Finite, PositiveOrInfinite, between
from score_sde.samplers.memory import Memory
from score_sde.types import Array, Denoise, Scalar


def split_along(d: Array, direction: Array) -> tuple[Array, Array]:
    """Split each example of d into the parts parallel and orthogonal to a direction.

    Where the direction is 0, nothing is parallel to it.
    """
    length = sum_over_data(direction**2)
    some = length > 0
    share = sum_over_data(d * direction) / jnp.where(some, length, 1.0)
    parallel = expand_like(jnp.where(some, share, 0.0), d) * direction
    return parallel, d - parallel


def bounded(d: Array, bound: float) -> Array:
    """Shorten each example of d to this Euclidean length, if it is longer."""
    if bound == math.inf:
        return d
    squared = sum_over_data(d**2)
    long = squared > bound**2
    factor = bound / jnp.sqrt(jnp.where(long, squared, 1.0))
    return d * expand_like(jnp.where(long, factor, 1.0), d)


@needs_condition()
@checks_rules
def adaptive_projected(
    denoise: Denoise,
    weight: Weight,
    *,
    eta: Annotated[float, Finite] = 0.0,
    momentum: Annotated[float, between(-1, 1)] = 0.0,
    bound: Annotated[float, PositiveOrInfinite] = math.inf,
    negative: Any = null_condition,
    one_call: bool = True,
) -> Guided:
    """Guide by the part of D_c - D_n that is orthogonal to D_c (Sadat et al. 2024).

    With eta 1, no momentum and no bound it is `classifier_free`.

    Args:
        denoise: a model that was trained with and without its condition.
        weight: a number, or a function of sigma such as `interval`.
        eta: share of the parallel part that is kept, which mostly saturates.
        momentum: what is used of the push of the step before; the paper's is negative,
            -0.5 or -0.75, against steps that agree too well. With any, the denoiser has
            a memory that `sample` carries, for samplers whose steps begin at x.
        bound: the greatest length of the push, of all coordinates of an example
            together; the paper's is 2.5 to 15 in its latents.
        negative: as in `classifier_free`.
        one_call: as in `classifier_free`.

    Raises: ValueError for options that break a rule; when called, without a condition,
        and, with momentum, for a call outside of `sample`.
    """

    def mix(memory: Array, at: Branches) -> tuple[Array, Array]:
        push = at.target - at.base + momentum * memory
        parallel, orthogonal = split_along(bounded(push, bound), at.target)
        mixed = at.target + (at.weight - 1) * (orthogonal + eta * parallel)
        return mixed, push

    branches = two_branches(denoise, negative, one_call=one_call)
    recall, evals = combination(*branches, weight, mix)

    def alone(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return recall(jnp.zeros_like(x), x, sigma, cond)[0]

    has_memory = not isinstance(momentum, (int, float)) or momentum != 0
    return Guided(alone, evals, Memory(jnp.zeros_like, recall) if has_memory else None)
