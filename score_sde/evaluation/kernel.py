"""Kernel distances: squared maximum mean discrepancy of two sets (KID, CMMD).

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

KID (Binkowski et al. 2018) takes k = (x y / dims + 1)^3, CMMD (Jayasumana et al. 2024)
a Gaussian of width 10 on normalised CLIP embeddings, times 1,000. Kernels are computed
in blocks of rows, in float64: memory grows with the examples, not with their square.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    checks_options,
    feature_arrays,
    interval,
    set_counts,
    square_blocks,
)
from score_sde.rules import NonNegative, Positive, Rule, at_least, one_of

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""k of every row of the first array [n, dims] with every row of the second: [n, m]."""

METHOD = "normal, variance of the two-sample U-statistic of second order; over images"
SAME = "the two sets are the same: the interval is one for independent sets."
ESTIMATORS: Rule = one_of(("unbiased", "biased", "paired"))


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The kernel of KID, (x y / dims + 1)^3."""
    product = x @ y.T / x.shape[1] + 1
    return np.asarray(product * product * product)


def gaussian(width: float) -> Kernel:
    """The kernel exp(-|x - y|^2 / (2 width^2)), that of CMMD at width 10."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squares = np.sum(x * x, 1)[:, None] + np.sum(y * y, 1) - 2 * (x @ y.T)
        return np.exp(-np.maximum(squares, 0) / (2 * width**2))

    return kernel


@checks_options
def kernel_distance(
    features: Any,
    other: Any,
    *,
    estimator: Annotated[str, ESTIMATORS] = "unbiased",
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """KID of all pairs of two sets, with an interval; it needs no seed.

    Negative values are right where the laws are equal: the mean is then 0.

    Args:
        features: [examples, dims], floats.
        other: the other set, with the same dims.
        estimator: "unbiased" leaves out x = x' within each set; "biased" keeps them,
            and is 0 for a set with itself; "paired" also leaves out the i-th of one set
            with the i-th of the other, which must be as many.
        level: that of the interval; None for none.
    Raises: ValueError for what is not comparable.
    """
    x, y = feature_arrays(("features", "other"), features, other)
    if estimator == "paired" and len(x) != len(y):
        raise ValueError(
            f"other has {len(y)} examples; with estimator='paired' it must have "
            f"{len(x)}, like features."
        )
    return _estimate(x, y, cubic, estimator=estimator, level=level)


@checks_options
def cmmd(
    features: Any,
    other: Any,
    *,
    width: Annotated[float, Positive] = 10.0,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """CMMD of two sets of embeddings: 1,000 times the biased squared discrepancy.

    Args:
        features: embeddings [examples, dims] of length 1, as CLIP's are normalised.
        other: those of the other set.
        width: that of the Gaussian kernel.
        level: that of the interval; None for none.
    Raises: ValueError for what is not comparable, or embeddings of another length.
    """
    x, y = feature_arrays(("features", "other"), features, other)
    for name, array in (("features", x), ("other", y)):
        lengths = np.sqrt(np.sum(np.square(array, dtype=np.float64), 1))
        wrong = int(np.argmax(np.abs(lengths - 1)))
        if abs(lengths[wrong] - 1) > 1e-3:
            raise ValueError(
                f"{name}[{wrong}] has length {lengths[wrong]:.6g}; embeddings must "
                "have length 1."
            )
    settings = {"width": width}
    return _estimate(
        x,
        y,
        gaussian(width),
        estimator="biased",
        level=level,
        scale=1000.0,
        settings=settings,
    )


@checks_options
def kernel_distance_of_subsets(
    features: Any,
    other: Any,
    *,
    num_subsets: Annotated[int, at_least(2)] = 100,
    subset_size: Annotated[int, at_least(2)] = 1000,
    seed: Annotated[int, NonNegative] = 2020,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """KID as published: the mean over random subsets of equal size.

    `parts["std"]` is what papers print beside it, the standard deviation over subsets.
    That is no standard error: subsets overlap. The interval takes the variance of each
    subset's own U-statistic to the size of the whole sets.

    Args:
        features: [examples, dims], floats.
        other: the other set, with the same dims.
        num_subsets: how many pairs of subsets there are.
        subset_size: how many examples each has of either set.
        seed: that of `numpy.random.RandomState`, which draws them.
        level: that of the interval; None for none.
    Raises: ValueError for what is not comparable, or too few examples.
    """
    x, y = feature_arrays(
        ("features", "other"),
        features,
        other,
        at_least=subset_size,
        why=f" for subsets of {subset_size}",
    )
    rng = np.random.RandomState(seed)
    values, variances = [], []
    for _ in range(num_subsets):
        first = x[rng.choice(len(x), subset_size, replace=False)]
        second = y[rng.choice(len(y), subset_size, replace=False)]
        sums = _sums_of(first, second, cubic)
        values.append(_value(sums, "unbiased"))
        variances.append(_variance(sums))
    value, std = float(np.mean(values)), float(np.std(values))
    share = subset_size / min(len(x), len(y))
    error = math.sqrt(float(np.mean(variances)) * share + std**2 / num_subsets)
    low, high = interval(value, error, level)
    return Estimate(
        value,
        low,
        high,
        level,
        f"{METHOD}; from subsets, and the scatter of their mean",
        set_counts(x, y),
        {"num_subsets": num_subsets, "subset_size": subset_size, "seed": seed},
        {"std": std, "standard_error": error},
        _warnings(x, y),
    )


class _Sums(NamedTuple):
    """Sums of a kernel over the rows of one or of two sets."""

    rows: np.ndarray
    columns: np.ndarray
    squares: float
    diagonal: np.ndarray
    """k of the i-th of one with the i-th of the other."""


def _estimate(
    x: np.ndarray,
    y: np.ndarray,
    kernel: Kernel,
    *,
    estimator: str,
    level: float | None,
    scale: float = 1.0,
    settings: dict[str, Any] | None = None,
) -> Estimate:
    sums = _sums_of(x, y, kernel)
    value, error = _value(sums, estimator), math.sqrt(_variance(sums))
    bias = value - _value(sums, "unbiased") if estimator == "biased" else 0.0
    low, high = interval(scale * value, scale * error, level, bias=scale * bias)
    return Estimate(
        scale * value,
        low,
        high,
        level,
        METHOD,
        set_counts(x, y),
        {"estimator": estimator, **(settings or {})},
        {"standard_error": scale * error, "bias": scale * bias},
        _warnings(x, y),
    )


def _warnings(x: np.ndarray, y: np.ndarray) -> tuple[str, ...]:
    return (SAME,) if _are_same(x, y) else ()


def _are_same(x: np.ndarray, y: np.ndarray) -> bool:
    return x.shape == y.shape and np.array_equal(x, y)


def _sums_of(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> tuple[_Sums, ...]:
    """Sums within the first set, within the second, and across."""
    within = _sums(x, x, kernel)
    if _are_same(x, y):
        return within, within, within
    return within, _sums(y, y, kernel), _sums(x, y, kernel)


def _sums(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> _Sums:
    """Sums over the rows of x and of y, block after block; y may be x."""
    rows, columns, squares = np.zeros(len(x)), np.zeros(len(y)), 0.0
    diagonal = np.empty(min(len(x), len(y)))
    for some in square_blocks(*x.shape):
        left = x[some].astype(np.float64)
        for others in square_blocks(*y.shape):
            # A kernel is symmetric: within a set the blocks below the diagonal are
            # those above it.
            if y is x and others.start < some.start:
                continue
            right = left if y is x and others == some else y[others].astype(np.float64)
            part = kernel(left, right)
            above = y is x and others != some
            rows[some] += part.sum(1)
            columns[others] += part.sum(0)
            squares += (1 + above) * float(np.sum(part * part))
            if above:
                rows[others] += part.sum(0)
                columns[some] += part.sum(1)
            if others.start == some.start:
                least = min(part.shape)
                diagonal[some.start : some.start + least] = part.diagonal()[:least]
    return _Sums(rows, columns, squares, diagonal)


def _value(sums: tuple[_Sums, ...], estimator: str) -> float:
    xx, yy, xy = sums
    n, m = len(xy.rows), len(xy.columns)
    if estimator == "biased":
        within = xx.rows.sum() / n**2 + yy.rows.sum() / m**2
        return float(within - 2 * xy.rows.sum() / (n * m))
    within = (xx.rows.sum() - xx.diagonal.sum()) / (n * (n - 1))
    within += (yy.rows.sum() - yy.diagonal.sum()) / (m * (m - 1))
    if estimator == "paired":
        across = (xy.rows.sum() - xy.diagonal.sum()) / (n * (n - 1))
    else:
        across = xy.rows.sum() / (n * m)
    return float(within - 2 * across)


def _variance(sums: tuple[_Sums, ...]) -> float:
    """The variance of the U-statistic, of first and second order.

    The first order is found from the same kernels, and holds twice the variance of the
    second; where the laws are equal only the second is left.
    """
    xx, yy, xy = sums
    n, m = len(xy.rows), len(xy.columns)
    within_x = (xx.rows - xx.diagonal) / (n - 1)
    within_y = (yy.rows - yy.diagonal) / (m - 1)
    a = within_x - xy.rows / m
    b = within_y - xy.columns / n
    linear = 4 * float(a.var(ddof=1)) / n + 4 * float(b.var(ddof=1)) / m
    quadratic = (
        2 * _centred_square(xx, within_x, within_x, own=True) / n**2
        + 2 * _centred_square(yy, within_y, within_y, own=True) / m**2
        + 4 * _centred_square(xy, xy.rows / m, xy.columns / n, own=False) / (n * m)
    )
    return max(linear - quadratic, quadratic)


def _centred_square(
    sums: _Sums, rows: np.ndarray, columns: np.ndarray, *, own: bool
) -> float:
    """The mean square of a kernel less its means by row and by column."""
    total, pairs = sums.squares, len(rows) * len(columns)
    if own:
        total, pairs = total - float(np.sum(sums.diagonal**2)), pairs - len(rows)
    means = float(rows.var() + columns.var() + rows.mean() ** 2)
    return max(0.0, total / pairs - means)
