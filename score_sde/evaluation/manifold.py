"""Precision, recall, density, coverage: are samples among the data, and all over them?

Both use balls around points of a set, each as wide as the distance to that point's k-th
nearest other point (Kynkaanniemi et al. 2019; Naeem et al. 2020).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    checks_options,
    feature_arrays,
    interval,
    set_counts,
    share_interval,
)
from score_sde.evaluation.neighbours import Inside, count_inside, inside_any, nearest
from score_sde.rules import Positive, Rule, one_of

BALLS: Rule = one_of(("closed", "open"))


class _Pair:
    """Value and interval of both estimates of a NamedTuple of two."""

    __slots__ = ()

    def _both(self, field: str) -> tuple[float, float]:
        one, other = tuple(self)  # type: ignore[arg-type, var-annotated]
        return getattr(one, field), getattr(other, field)

    @property
    def value(self) -> tuple[float, float]:
        """The two values."""
        return self._both("value")

    @property
    def low(self) -> tuple[float, float]:
        """The lower ends of the two intervals."""
        return self._both("low")

    @property
    def high(self) -> tuple[float, float]:
        """The upper ends of the two intervals."""
        return self._both("high")


class _PrecisionRecall(NamedTuple):
    precision: Estimate
    recall: Estimate


class PrecisionRecall(_Pair, _PrecisionRecall):
    """Precision and recall, an `Estimate` each; value, low and high of both."""

    __slots__ = ()


class _DensityCoverage(NamedTuple):
    density: Estimate
    coverage: Estimate


class DensityCoverage(_Pair, _DensityCoverage):
    """Density and coverage, an `Estimate` each; value, low and high of both."""

    __slots__ = ()


@checks_options
def precision_recall(
    real: Any,
    fake: Any,
    *,
    k: Annotated[int, Positive] = 3,
    balls: Annotated[str, BALLS] = "closed",
    level: Annotated[float | None, Level] = 0.95,
) -> PrecisionRecall:
    """Precision and recall of samples by k nearest neighbours, with intervals.

    Precision is the share of fake points in any ball of a real one, recall that of real
    points in any ball of a fake one. The intervals are over the points that are asked,
    with the balls held fixed.

    Args:
        real: features [examples, dims].
        fake: features of generated images, with the same dims.
        k: which neighbour sets the radius; the paper's is 3.
        balls: "closed" counts a point at the radius, like the paper; "open" does not,
            like the package prdc. They differ for repeated points alone.
        level: that of the intervals; None for none.
    Raises: ValueError for what is not comparable, or no more than k examples.

    Examples:
        Samples of one half of the data are among them, and miss the other half:

        >>> rng = np.random.default_rng(0)
        >>> real = rng.uniform(-1, 1, size=(1_000, 2))
        >>> fake = real[real[:, 0] < 0]
        >>> print([round(share, 1) for share in precision_recall(real, fake).value])
        [1.0, 0.5]
    """
    x, y = _sets(real, fake, k)
    counts, settings = set_counts(x, y), {"k": k, "balls": balls}
    radii = [nearest(side, side, k, same=True)[0][:, -1] for side in (x, y)]
    covered, among = inside_any(x, y, (radii[0], radii[1]), closed=balls == "closed")

    def share(inside: np.ndarray) -> Estimate:
        value = float(inside.mean())
        low, high = share_interval(value, len(inside), level)
        method = "Wilson, over the points asked; balls fixed"
        return Estimate(value, low, high, level, method, counts, settings)

    return PrecisionRecall(share(among), share(covered))


@checks_options
def density_coverage(
    real: Any,
    fake: Any,
    *,
    k: Annotated[int, Positive] = 5,
    balls: Annotated[str, BALLS] = "open",
    level: Annotated[float | None, Level] = 0.95,
) -> DensityCoverage:
    """Density and coverage of samples by k nearest neighbours, with intervals.

    Density is the mean number of real balls that a fake point is in, / k: 1 on average
    where the laws are equal, and it may exceed 1. Coverage is the share of real balls
    with a fake point in them: then `expected_coverage` on average.

    Args:
        real: features [examples, dims].
        fake: features of generated images, with the same dims.
        k: which neighbour sets the radius; the paper's is 5.
        balls: "open" leaves out a point at the radius, like the package prdc; "closed"
            counts it.
        level: that of the intervals; None for none.
    Raises: ValueError for what is not comparable, or no more than k examples.
    """
    x, y = _sets(real, fake, k)
    counts, settings = set_counts(x, y), {"k": k, "balls": balls}
    radii = nearest(x, x, k, same=True)[0][:, -1]
    inside = count_inside(y, x, radii, closed=balls == "closed")
    density = float(inside.balls_of_point.sum() / (k * len(y)))
    error = _error_of_share(inside) * len(x) / k
    low, high = interval(density, error, level, lowest=0.0)
    method = "normal, over real balls and fake points (U-statistic); radii fixed"
    first = Estimate(
        density,
        low,
        high,
        level,
        method,
        counts,
        settings,
        {"standard_error": error},
    )
    coverage = float(np.mean(inside.points_of_ball > 0))
    low, high = share_interval(coverage, _effective_number(inside, coverage), level)
    method = (
        "Wilson, over real balls, number lessened by the jackknife over fake points"
    )
    second = Estimate(coverage, low, high, level, method, counts, settings)
    return DensityCoverage(first, second)


def expected_coverage(num_real: int, num_fake: int, k: int) -> float:
    """Coverage of num_fake samples of the very law of num_real data, on average.

    1 - prod_{i=1..k} (num_real - i) / (num_real + num_fake - i): the k nearest of a
    point among all others are real ones.
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((num_real - i) / (num_real + num_fake - i)))


def _error_of_share(inside: Inside) -> float:
    """The standard error of the share of all pairs whose point lies in the ball."""
    num_balls, num_points = len(inside.points_of_ball), len(inside.balls_of_point)
    of_point = inside.balls_of_point / num_balls
    of_ball = inside.points_of_ball / num_points
    mean = of_ball.mean()
    linear = of_point.var(ddof=1) / num_points + of_ball.var(ddof=1) / num_balls
    # The pairs' own variance, which both of these hold.
    pairs = mean + mean**2 - np.mean(of_point**2) - np.mean(of_ball**2)
    own = max(0.0, float(pairs)) / (num_balls * num_points)
    return math.sqrt(max(float(linear) - own, own))


def _effective_number(inside: Inside, coverage: float) -> float:
    """The number of independent balls whose coverage would vary as much."""
    num_balls, num_points = len(inside.points_of_ball), len(inside.balls_of_point)
    own = coverage * (1 - coverage) / num_balls
    if not own:
        return num_balls
    only = inside.only_point[inside.only_point >= 0]
    lost = np.bincount(only, minlength=num_points) / num_balls
    jackknife = (num_points - 1) * float(lost.var())
    return num_balls * own / (own + jackknife)


def _sets(real: Any, fake: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    why = f" for the distance to the k-th of them, k = {k}"
    return feature_arrays(("real", "fake"), real, fake, at_least=k + 1, why=why)
