"""Guidance that changes what it goes away from, or weighs scales of a picture apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import einsum, expand_like, sum_over_data, where_example
from score_sde.fields import checks_rules
from score_sde.guidance.conditional import null_condition, two_branches
from score_sde.guidance.guided import (
    Branches,
    Guided,
    Weight,
    check_weight,
    combine,
    weight_at,
)
from score_sde.guidance.needs import needs_condition
from score_sde.rules import PositiveOrInfinite
from score_sde.types import Array, Denoise, Scalar


@needs_condition()
@checks_rules
def tangential(
    denoise: Denoise,
    weight: Weight,
    *,
    negative: Any = null_condition,
    one_call: bool = True,
) -> Guided:
    """Guide away from the part of the other score that lies along both (Kwon 2025).

    The scores of both branches, as two rows, have a leading right singular vector v;
    the other score s_n is replaced by (s_n v) v, its part along what both share.

    Source: Kwon et al. 2025, 'TCFG: tangential damping classifier-free guidance'.

    Args:
        denoise: a model that was trained with and without its condition.
        weight: a number, or a function of sigma such as `interval`.
        negative: as in `classifier_free`.
        one_call: as in `classifier_free`.

    Raises: ValueError for a weight that is not finite; when called, without a
        condition.
    """

    def mix(at: Branches) -> Array:
        damped = along_both(at.base - at.x, at.target - at.x)
        return at.x + damped + at.weight * (at.target - at.x - damped)

    branches = two_branches(denoise, negative, one_call=one_call)
    return combine(*branches, weight, mix)


def along_both(a: Array, b: Array) -> Array:
    """Project a on the leading right singular vector of the rows (a, b), by example.

    Of their Gram matrix [[aa, ab], [ab, bb]] the leading eigenvector is (cos t, sin t)
    with tan 2t = 2 ab / (aa - bb), so that the projection is cos t (cos t a + sin t b).
    """
    aa, bb, ab = (sum_over_data(u * v) for u, v in ((a, a), (b, b), (a, b)))
    cos, sin = aa - bb, 2 * ab
    squared = cos**2 + sin**2
    some = squared > 0
    length = jnp.sqrt(jnp.where(some, squared, 1.0))
    cos, sin = jnp.where(some, cos / length, 1.0), jnp.where(some, sin / length, 0.0)
    return expand_like((1 + cos) / 2, a) * a + expand_like(sin / 2, a) * b


@needs_condition()
@checks_rules
def zero_star(
    denoise: Denoise,
    weight: Weight,
    *,
    zero_above: Annotated[float, PositiveOrInfinite] = math.inf,
    negative: Any = null_condition,
    one_call: bool = True,
) -> Guided:
    """Guide away from the other velocity at its best scale (Fan 2025, 'CFG-Zero*').

    s v_n + w (v_c - s v_n), v the velocity of a straight line from data to noise, and
    s = v_c v_n / |v_n|^2 for each example, which brings v_n nearest to v_c. The scale
    depends on velocities: those of a straight line serve here whatever the SDE.

    Args:
        denoise: a model that was trained with and without its condition.
        weight: a number, or a function of sigma such as `interval`.
        zero_above: above this noise level the velocity is 0, without an evaluation: the
            paper's zero first steps. On a grid, a level between two of its own.
        negative: as in `classifier_free`.
        one_call: as in `classifier_free`.

    Raises: ValueError for options that break a rule; when called, without a condition.
    """

    def mix(at: Branches) -> Array:
        still = _at_rest(at.x, at.sigma)
        towards, away = still - at.target, still - at.base
        away = expand_like(projection_scale(towards, away), away) * away
        # At a weight of one the model itself, to the bit.
        return at.target - (at.weight - 1) * (towards - away)

    branches = two_branches(denoise, negative, one_call=one_call)
    guided = combine(*branches, weight, mix)
    if zero_above == math.inf:
        return guided

    def later(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        is_early = jnp.broadcast_to(jnp.asarray(sigma) > zero_above, x.shape[:1])

        def some_move() -> Array:
            moved = guided(x, sigma, cond)
            return where_example(is_early, _at_rest(x, sigma), moved)

        return jax.lax.cond(is_early.all(), lambda: _at_rest(x, sigma), some_move)

    def evals(sigma: Array) -> Array:
        return jnp.where(sigma > zero_above, 0, guided.evals(sigma))

    return Guided(later, evals)


def _at_rest(x: Array, sigma: Scalar) -> Array:
    """The prediction of x0 whose straight-line velocity is 0: xt = x / (1 + sigma)."""
    return x / (1 + expand_like(sigma, x))


def projection_scale(towards: Array, away: Array) -> Array:
    """The s of each example for which s away is nearest to towards; 1 where it is 0."""
    squared = sum_over_data(away**2)
    some = squared > 0
    scale = sum_over_data(towards * away) / jnp.where(some, squared, 1.0)
    return jnp.where(some, scale, 1.0)


@needs_condition()
def frequency_decoupled(
    denoise: Denoise,
    weights: Sequence[Weight],
    *,
    negative: Any = null_condition,
    one_call: bool = True,
) -> Guided:
    """Guide each band of a Laplacian pyramid by a weight of its own (Sadat 2025).

    D_n + sum_i w_i band_i(D_c - D_n), for images. With equal weights it is
    `classifier_free`, since the bands sum to the image.

    Source: Sadat et al. 2025, arXiv 2506.19713; the pyramid of Burt and Adelson 1983.

    Args:
        denoise: a model that was trained with and without its condition.
        weights: of the finest band first; the last is of what remains, the coarsest.
        negative: as in `classifier_free`.
        one_call: as in `classifier_free`.

    Raises: ValueError for no weights, or one that is not finite; when called, without a
        condition, and for data that are no images.
    """
    if not weights:
        raise ValueError("frequency_decoupled needs a weight for each band, got none.")
    weights = [check_weight(w) for w in weights]

    def mix(at: Branches) -> Array:
        bands = laplacian_bands(at.target - at.base, len(weights))
        steps = [
            expand_like(weight_at(w, at.sigma), at.x) * band
            for w, band in zip(weights, bands, strict=True)
        ]
        return at.base + sum(steps, jnp.zeros_like(at.base))

    # The weight of all bands together: nothing but a weight of 1 is spared the base.
    alike = all(isinstance(w, (int, float)) and w == 1 for w in weights)
    branches = two_branches(denoise, negative, one_call=one_call)
    return combine(*branches, 1.0 if alike else 2.0, mix)


def laplacian_bands(image: Array, num_bands: int) -> list[Array]:
    """Cut images into bands of an octave, the finest first, which sum to the image.

    Args:
        image: [batch, height, width, channels].
        num_bands: of bands; the last is what remains, a picture of low frequencies.

    Raises: ValueError for data that are no images.
    """
    if image.ndim != 4:
        raise ValueError(
            "bands of frequencies are for images, [batch, height, width, channels]; "
            f"got shape {image.shape}."
        )
    passed = [image]
    shrink, grow = ([np.eye(side) for side in image.shape[1:3]] for _ in range(2))
    for _ in range(num_bands - 1):
        for axis in range(2):
            halve = _binomial(len(shrink[axis]))
            # A coarse pixel spreads by the same filter, so scaled that constants stay.
            spread = halve.T / halve.sum(0)[:, None]
            shrink[axis] = np.matmul(halve, shrink[axis])
            grow[axis] = np.matmul(grow[axis], spread)
        rows, columns = (
            jnp.asarray(np.matmul(g, s), image.dtype)
            for g, s in zip(grow, shrink, strict=True)
        )
        passed.append(einsum("ih,jw,bhwc->bijc", rows, columns, image))
    fine = [a - b for a, b in zip(passed[:-1], passed[1:], strict=True)]
    return [*fine, passed[-1]]


def _binomial(side: int) -> np.ndarray:
    """[(side + 1) // 2, side]: the filter 1 4 6 4 1 at every second pixel, mirrored."""
    matrix = np.zeros(((side + 1) // 2, side))
    period = max(2 * (side - 1), 1)
    for row in range(len(matrix)):
        for offset, tap in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
            place = abs(2 * row + offset) % period
            matrix[row, min(place, period - place)] += tap / 16
    return matrix
