"""Consistency in steps: a model's jump to 0 from one level is that from a lower one.

    loss = weight(sigma, r) d(G(x_sigma, sigma, 0), stop G'(x_r, r, 0)),   r < sigma

x_r lies on the same path as x_sigma: by a step of a teacher (distillation), or with the
same noise (training). How pairs (sigma, r) are drawn, the distance d, the weight and
the network of the target G' are what tells the methods apart (Song et al. 2023; Song
and Dhariwal 2024; Geng et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from score_sde.arrays import check_alike, expand_like, where_example
from score_sde.types import Array, Denoise, Jump, Points

Distance = Callable[[Array, Array], Array]
PairWeight = Callable[[Array, Array], Array]
"""A function of (sigma, lower), [batch] each."""


def consistency_loss(
    jump: Jump,
    target: Jump,
    x0: Points,
    eps: Points,
    sigma: Float[Array, " batch"],
    lower: Float[Array, " batch"],
    *,
    distance: Distance,
    weight: PairWeight,
    teacher: Denoise | None = None,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """The distance of two jumps to 0 from one path, per example.

    Args:
        jump: the student.
        target: the student as it gives the target, of which no gradient is taken.
        x0: clean data, [batch, *dims].
        eps: standard normal noise, shaped like x0.
        sigma: the upper level, [batch].
        lower: the lower level r, [batch]; where it is 0 the target is x0 itself, or
            where the teacher leads.
        distance: (prediction, target) -> [batch].
        weight: of each pair of levels.
        teacher: the denoiser along whose flow x_r is reached, by Heun's step, which
            needs lower > 0; None for x0 + lower eps.
        cond: the condition, or None.
    """
    x = x0 + expand_like(sigma, x0) * eps
    if teacher is None:
        x_lower = x0 + expand_like(lower, x0) * eps
    else:
        x_lower = heun_step(teacher, x, sigma, lower, cond)
    prediction = check_alike("the jump", jump(x, sigma, jnp.zeros_like(sigma), cond), x)
    # Where the lower level is 0 nothing is left to jump.
    safe = jnp.where(lower > 0, lower, sigma)
    jumped = target(x_lower, safe, jnp.zeros_like(safe), cond)
    aim = jax.lax.stop_gradient(where_example(lower > 0, jumped, x_lower))
    return weight(sigma, lower) * distance(prediction, aim)


def heun_step(
    denoise: Denoise,
    x: Points,
    sigma: Float[Array, " batch"],
    lower: Float[Array, " batch"],
    cond: Any = None,
) -> Float[Array, "batch *dims"]:
    """Carry x by Heun's step of the flow, levels per example; to 0 it is Euler's."""
    slope = (x - denoise(x, sigma, cond)) / expand_like(sigma, x)
    first = x + expand_like(lower - sigma, x) * slope
    safe = jnp.where(lower > 0, lower, sigma)
    there = (first - denoise(first, safe, cond)) / expand_like(safe, x)
    whole = x + expand_like(lower - sigma, x) * 0.5 * (slope + there)
    return where_example(lower > 0, whole, first)


def inverse_gap(sigma: Array, lower: Array) -> Array:
    """Weight 1/(sigma - r) of a pair (Song and Dhariwal 2024, sec. 3.2)."""
    return 1 / (sigma - lower)


def of_upper(weight: Callable[[Array], Array]) -> PairWeight:
    """The weight of a pair that a weight of its upper level gives."""
    return lambda sigma, lower: weight(sigma)
