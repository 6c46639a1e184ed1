"""Frechet distances between Gaussians fitted to two sets of features (FID, FD, sFID).

    FD = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

With S = R^T R the last trace is the sum of the singular values of R1 R2^T: no square
root of a product that is not symmetric is taken. sFID is this distance of spatial
features, FD-DINOv2 that of DINOv2's. `frechet_spread` says how sure the number is.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np

from score_sde.evaluation.estimate import (
    NAN,
    Estimate,
    Level,
    checks_options,
    interval,
)
from score_sde.evaluation.frechet_spread import Spread, spread_of
from score_sde.evaluation.moments import Moments, moments_of
from score_sde.evaluation.reading import reads
from score_sde.evaluation.sides import comparable_sides, few_examples, is_moments
from score_sde.evaluation.statistics import Statistics

QR_WORK = 2e10
"""Up to so many examples * dims^2 the centred features themselves are decomposed, which
is exact also for singular covariances; above, their moments are, many times faster."""
SVD_SIZE = 512**2
"""Above so many numbers in R1 R2^T the eigenvalues of its square are taken, in half the
time of singular values."""
FURTHER_BIAS = 1.0
"""A bound of the bias beyond second order, in units of bias * rank / n: it was 0.5 to
0.6 for Gaussians of 64 features and 128 to 500 examples."""
BOTH_SETS = (
    "infinitesimal jackknife over images of both sets, bias removed; for the distance "
    "of the laws"
)
ONE_SET = (
    "infinitesimal jackknife over images of one set, bias removed; for the distance of "
    "its law to the fixed reference"
)
EPS = float(np.finfo(np.float64).eps)
ROUNDING = 1e-12
"""Distances below this share of the variances are rounding, and are 0."""


class Root(NamedTuple):
    """A mean, and R with R^T R = covariance."""

    mean: np.ndarray
    matrix: np.ndarray
    """R, [rank or more, dims]."""

    @property
    def trace(self) -> float:
        """The sum of the variances."""
        return float(np.sum(self.matrix**2))


class Transport(NamedTuple):
    """The optimal map between two Gaussians, in the coordinates that diagonalise it."""

    singular: np.ndarray
    """Singular values s of R1 R2^T, those above rounding: their sum is the trace."""
    directions: np.ndarray
    """R1^T U, [dims, len(singular)], with U the left singular vectors."""


@reads("features", "moments")
@checks_options
def frechet_distance(
    features: Any, other: Any, *, level: Annotated[float | None, Level] = 0.95
) -> Estimate:
    """The Frechet distance between two sets of features, with an interval.

    The value is that of the papers: covariances with n - 1, its bias in it. The
    interval is one for the distance of the two laws. Bias and standard error are those
    of the distance's second-order expansion in the two empirical laws (infinitesimal
    jackknife, the limit of infinitely many bootstrap draws); the lower end allows for
    bias of higher order. It always holds the value.

    Args:
        features: [examples, dims], floats; or `Moments`, or `Statistics` of a file.
            Then the interval is one for the distance of the law of `other` to exactly
            these.
        other: the other set, with the same dims, or moments in the same way. Moments on
            both sides have no interval.
        level: that of the interval; None for no interval, which takes less time.
    Returns: the estimate. `parts` has `standard_error` and `bias`; `warnings` says so
        where a set has no more examples than features.
    Raises: ValueError for what is not comparable.

    Examples:
        Normal laws of four features, one moved by a half in each, are 4 / 2^2 apart:

        >>> x = np.random.default_rng(0).normal(size=(2_000, 4))
        >>> found = frechet_distance(x[:1_000], x[1_000:] + 0.5)
        >>> print(f"{found.value:.2f}, of which bias {found.parts['bias']:.2f}")
        1.14, of which bias 0.02
        >>> print(f"between {found.low:.2f} and {found.high:.2f}")
        between 0.93 and 1.31
    """
    first, second, counts = comparable_sides(("features", "other"), features, other)
    warnings = few_examples(counts)
    if first is None and second is None:
        return _without_interval(features, other, counts)
    if first is not None and second is not None and np.array_equal(first, second):
        return Estimate(0.0, 0.0, 0.0, level, "the two sets are the same", counts)
    roots = (
        root_of(features if first is None else first),
        root_of(other if second is None else second),
    )
    value = distance_of(*roots)
    if level is None:
        none = "no interval was asked for"
        return Estimate(value, NAN, NAN, None, none, counts, warnings=warnings)
    transport = transport_of(*roots)
    spread = frechet_spread(first, second, *roots, transport)
    low, high = interval(
        value, spread.standard_error, level, bias=spread.bias, lowest=0.0
    )
    few = min(len(side) for side in (first, second) if side is not None)
    rank = len(transport.singular)
    further = spread.bias * rank / few if few > counts["dims"] else np.inf
    low = max(0.0, low - FURTHER_BIAS * further)
    return Estimate(
        value,
        low,
        high,
        level,
        ONE_SET if first is None or second is None else BOTH_SETS,
        counts,
        parts={"standard_error": spread.standard_error, "bias": spread.bias},
        warnings=warnings,
    )


def frechet_distance_of_moments(
    first: Moments | Statistics, second: Moments | Statistics
) -> Estimate:
    """The Frechet distance from stored moments, by symmetric eigenvalues.

    Moments don't say how sure they are: the estimate has no interval.

    Raises: ValueError for what are no moments, not comparable or not finite.
    """
    for name, side in (("first", first), ("second", second)):
        if not is_moments(side):
            raise ValueError(
                f"{name} is {type(side).__name__}; it must be Moments or Statistics."
            )
    sides = comparable_sides(("first", "second"), first, second)
    return _without_interval(first, second, sides.counts)


def _without_interval(
    first: Moments | Statistics, second: Moments | Statistics, counts: dict[str, int]
) -> Estimate:
    """The distance of two checked moments."""
    same = np.array_equal(first.mean, second.mean) and np.array_equal(
        first.covariance, second.covariance
    )
    value = 0.0 if same else distance_of(root_of(first), root_of(second))
    none = "none: moments alone carry no spread"
    return Estimate(value, NAN, NAN, None, none, counts, warnings=few_examples(counts))


def frechet_spread(
    first: np.ndarray | None,
    second: np.ndarray | None,
    first_root: Root,
    second_root: Root,
    transport: Transport,
) -> Spread:
    """Bias and standard error of the distance of two sets of features.

    One is None where its moments are taken as they are.
    """
    s, onto_second = transport.singular, transport.directions
    onto_first = second_root.matrix.T @ (second_root.matrix @ onto_second) / s
    return spread_of(
        (first, first_root.mean, onto_first),
        (second, second_root.mean, onto_second),
        s,
    )


def root_of(features: np.ndarray | Moments | Statistics) -> Root:
    """The mean and the root of the covariance of features, in float64."""
    if isinstance(features, (Moments, Statistics)):
        return _root_of_moments(features)
    number, dims = features.shape
    if number * dims * dims > QR_WORK:
        return _root_of_moments(moments_of(features))
    features = features.astype(np.float64)
    mean = features.mean(0)
    centred = features - mean
    # One row less, of the same scatter: centred rows sum to 0, and a reflection that
    # gathers their sum in the first one leaves nothing there but rounding errors.
    rows = centred[1:] + centred[0] / (np.sqrt(number) - 1)
    factor = np.linalg.qr(rows, mode="r") if number > dims else rows
    return Root(mean, factor / np.sqrt(number - 1))


def _root_of_moments(moments: Moments | Statistics) -> Root:
    covariance = moments.covariance
    try:
        return Root(moments.mean, np.linalg.cholesky(covariance).T)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        # What lies below is rounding, of either sign.
        kept = values > len(values) * EPS * values.max()
        root = np.sqrt(values[kept])[:, None] * vectors.T[kept]
        return Root(moments.mean, root)


def transport_of(first: Root, second: Root) -> Transport:
    """The map between two Gaussians from the roots of their covariances."""
    product = _product(first, second)
    if product.size > SVD_SIZE:
        singular, left = _by_eigenvectors(product)
        cut = 1e-7
    else:
        left, singular, _ = np.linalg.svd(product, full_matrices=False)
        cut = 1e-13
    kept = singular > cut * singular.max(initial=0)
    directions = first.matrix.T @ left[:, kept]
    return Transport(singular[kept], directions)


def distance_of(first: Root, second: Root) -> float:
    """The Frechet distance of two Gaussians from the roots of their covariances.

    It takes no singular vectors: they would double the time.
    """
    product = _product(first, second)
    if product.size > SVD_SIZE:
        values = np.linalg.eigvalsh(_smaller_gram(product))
        singular = np.sqrt(np.maximum(values, 0))
    else:
        singular = np.linalg.svd(product, compute_uv=False)
    step = float(np.sum((first.mean - second.mean) ** 2))
    variances = first.trace + second.trace
    value = step + variances - 2 * float(singular.sum())
    return 0.0 if value < ROUNDING * (variances + step) else value


def _product(first: Root, second: Root) -> np.ndarray:
    """R1 R2^T, whose singular values are those of the map between the two."""
    return np.asarray(first.matrix @ second.matrix.T)


def _smaller_gram(product: np.ndarray) -> np.ndarray:
    """P P^T or P^T P, whichever is smaller.

    The larger one has the same eigenvalues and zeros beside them, whose rounding errors
    are square roots of 1e-16 once they are singular values.
    """
    wide = product if len(product) <= product.shape[1] else product.T
    return np.asarray(wide @ wide.T)


def _by_eigenvectors(product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of P and its left singular vectors, from the smaller product.

    Vectors of singular values that are 0 are 0 where the other side's were found.
    """
    values, vectors = np.linalg.eigh(_smaller_gram(product))
    singular = np.sqrt(np.maximum(values, 0))
    if len(product) > product.shape[1]:  # P v = s u
        inverse = np.divide(1, singular, out=np.zeros_like(values), where=singular > 0)
        vectors = product @ vectors * inverse
    return singular, vectors
