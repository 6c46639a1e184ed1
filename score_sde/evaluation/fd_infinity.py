"""The Frechet distance extrapolated to infinitely many generated images (FD-infinity).

FD(n) is close to FD + a / n: a line in 1/n through the distances of subsets of the
generated images, at 1/n = 0 (Chong and Forsyth 2020). The bias of the real set stays.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    checks_options,
    feature_arrays,
    interval,
    set_counts,
)
from score_sde.evaluation.frechet import Root, frechet_spread, root_of, transport_of
from score_sde.rules import NonNegative, at_least, each

SMALLEST = 5000
"""The least subset, where there are more than ten times as many images (dgm-eval)."""


@checks_options
def fd_infinity(
    real: Any,
    fake: Any,
    *,
    sizes: Annotated[tuple[int, ...] | None, each(at_least(2))] = None,
    num_sizes: Annotated[int, at_least(3)] = 15,
    seed: Annotated[int | None, NonNegative] = 0,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """The Frechet distance at infinitely many generated images, with an interval.

    Args:
        real: features [examples, dims], all of which each distance uses.
        fake: features of generated images.
        sizes: how many of `fake` each distance takes; None for `num_sizes` numbers from
            a tenth of them, or 5,000 if that is more, to all.
        num_sizes: how many sizes there are where `sizes` is None.
        seed: that of the random subsets; None for the first images in their order.
        level: that of the interval; None for none.
    Returns: the estimate. `parts` has the line's slope, and FD at the largest size.
    Raises: ValueError for what is not comparable, or sizes beyond the images.
    """
    first, second = feature_arrays(("real", "fake"), real, fake)
    chosen = _sizes(len(second), sizes, num_sizes)
    root = root_of(first)
    rng = None if seed is None else np.random.default_rng(seed)
    weights = _intercept_weights(1 / np.asarray(chosen))
    distances, shares = [], np.zeros(len(second))
    for size, weight in zip(chosen, weights, strict=True):
        rows = np.arange(size)
        if rng is not None:
            rows = rng.choice(len(second), size, replace=False)
        distances.append(transport_of(root, root_of(second[rows])).value)
        shares[rows] += weight / size
    fd = np.array(distances)
    value = float(weights @ fd)
    slope, _ = np.polyfit(1 / np.asarray(chosen), fd, 1)
    error, bias = math.nan, math.nan
    if level is not None:
        error, bias = _error_and_bias(first, second, root, shares)
        residual = fd - value - slope / np.asarray(chosen)
        scatter = float(residual @ residual) / (len(fd) - 2)
        error = math.sqrt(error**2 + scatter * float(weights @ weights))
    low, high = interval(value, error, level, bias=bias)
    return Estimate(
        value,
        low,
        high,
        level,
        "infinitesimal jackknife over images of both sets, and the scatter about the "
        "line; the bias of the real set removed",
        set_counts(first, second),
        {"sizes": tuple(chosen), "seed": seed},
        {
            "slope": float(slope),
            "largest": distances[int(np.argmax(chosen))],
            "standard_error": error,
            "bias": bias,
        },
    )


def _error_and_bias(
    first: np.ndarray, second: np.ndarray, root: Root, shares: np.ndarray
) -> tuple[float, float]:
    """First-order error of the line's value at 0, and the bias of the first set.

    Args:
        first: features of the data.
        second: features of samples.
        root: that of the first set.
        shares: the weight of each sample in the value.
    """
    whole = root_of(second)
    spread = frechet_spread(first, second, root, whole, transport_of(root, whole))
    real_side, fake_side = spread.influences
    variance = float(real_side.var(ddof=1)) / len(first)
    variance += float(np.sum((shares * fake_side) ** 2))
    return math.sqrt(variance), spread.biases[0]


def _sizes(number: int, sizes: tuple[int, ...] | None, num_sizes: int) -> list[int]:
    """How many images each distance takes."""
    if sizes is None:
        least = max(number / 10, min(SMALLEST, number / 2), 2)
        sizes = tuple(int(n) for n in np.linspace(least, number, num_sizes))
    if len(set(sizes)) < 3 or not 2 <= min(sizes) <= max(sizes) <= number:
        raise ValueError(
            f"fd_infinity: sizes is {sizes}; it must be three or more different "
            f"numbers from 2 up to the {number} examples of fake."
        )
    return list(sizes)


def _intercept_weights(x: np.ndarray) -> np.ndarray:
    """The weights of y in the value at x = 0 of its least squares line."""
    centred = x - x.mean()
    return np.asarray(1 / len(x) - x.mean() * centred / np.sum(centred**2))
