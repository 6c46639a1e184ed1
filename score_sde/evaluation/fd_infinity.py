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
    interval,
)
from score_sde.evaluation.frechet import (
    Root,
    distance_of,
    frechet_spread,
    root_of,
    transport_of,
)
from score_sde.evaluation.reading import reads
from score_sde.evaluation.sides import comparable_sides, few_examples
from score_sde.rules import NonNegative, at_least, each

SMALLEST = 5000
"""The least subset, where there are more than ten times as many images (dgm-eval)."""

METHOD = (
    "infinitesimal jackknife over images of both sets, and the scatter about the line; "
    "the bias of the real set removed"
)


@reads("features", "moments")
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
        real: features [examples, dims], all of them for each distance; or moments.
        fake: features of generated images.
        sizes: how many of `fake` each distance takes; None for `num_sizes` numbers from
            a tenth of them, or 5,000 if that is more, to all.
        num_sizes: how many sizes there are where `sizes` is None.
        seed: that of the random subsets; None for the first images in their order.
        level: that of the interval; None for none.
    Returns: the estimate. `parts` has the line's slope, and FD at the largest size;
        `warnings` says so where a size, or the real set, is no more than the features.
    Raises: ValueError for what is not comparable, or sizes beyond the images.
    """
    first, second, counts = _sides(real, fake)
    chosen = _sizes(len(second), sizes, num_sizes)
    root = root_of(real if first is None else first)
    rng = None if seed is None else np.random.default_rng(seed)
    weights = _intercept_weights(1 / np.asarray(chosen))
    distances, shares = [], np.zeros(len(second))
    for size, weight in zip(chosen, weights, strict=True):
        rows = np.arange(size)
        if rng is not None:
            rows = rng.choice(len(second), size, replace=False)
        distances.append(distance_of(root, root_of(second[rows])))
        shares[rows] += weight / size
    value = float(weights @ (fd := np.array(distances)))
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
        METHOD,
        counts,
        {"sizes": tuple(chosen), "seed": seed},
        {
            "slope": float(slope),
            "largest": distances[int(np.argmax(chosen))],
            "standard_error": error,
            "bias": bias,
        },
        few_examples({**counts, "num_fake": min(chosen)}),
    )


def frechet_by_number(
    real: Any, fake: Any, *, num_sizes: int = 6, seed: int = 0
) -> dict[str, np.ndarray]:
    """Frechet distances of random parts of samples, which show how it depends on n.

    Args:
        real: features [examples, dims] of the data, or moments of them.
        fake: features of samples, 10 or more.
        num_sizes: how many parts, from a fifth of the samples to all.
        seed: that of the parts.

    Returns:
        "number" of samples, "distance", and the line through these in 1 / number:
        "limit", its value at infinitely many, and "slope"; "few", how many of these
        distances are of no more examples than features, and mostly bias.

    Raises:
        ValueError: for what is not comparable.
    """
    first, second, counts = _sides(real, fake)
    sizes = np.unique(np.linspace(len(second) / 5, len(second), num_sizes).astype(int))
    root = root_of(real if first is None else first)
    order = np.random.default_rng(seed).permutation(len(second))
    distances = [distance_of(root, root_of(second[order[:n]])) for n in sizes]
    slope, limit = np.polyfit(1 / sizes, distances, 1)
    fewer = np.minimum(sizes, counts.get("num_real", np.inf))
    return {
        "number": sizes,
        "distance": np.array(distances),
        "limit": np.asarray(limit),
        "slope": np.asarray(slope),
        "few": np.asarray(np.sum(fewer <= counts["dims"])),
    }


def _sides(
    real: Any, fake: Any
) -> tuple[np.ndarray | None, np.ndarray, dict[str, int]]:
    """Both sides, checked, of which the second must have its examples.

    Raises: ValueError for moments in their place, and for what is not comparable.
    """
    first, second, counts = comparable_sides(("real", "fake"), real, fake)
    if second is None:
        raise ValueError(
            f"fake is {type(fake).__name__}; it must be features [examples, dims], of "
            "which subsets are taken."
        )
    return first, second, counts


def _error_and_bias(
    first: np.ndarray | None, second: np.ndarray, root: Root, shares: np.ndarray
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
    variance = float(np.sum((shares * fake_side) ** 2))
    if first is not None:
        variance += float(real_side.var(ddof=1)) / len(first)
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
