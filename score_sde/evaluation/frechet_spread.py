"""Bias and standard error of a Frechet distance as an estimate of that of the laws.

The distance is expanded to second order in the two empirical laws. With x centred,
T the optimal map between the two Gaussians, S2 = T S1 T, and z = x A the coordinates in
which both covariances are diagonal, s^2 those of z,

    first order of x:       2 (m - m') x + x^T x - sum_k z_k^2 / s_k, less its mean
    second order of x, y:   x y + (1/2) sum_kl c_kl h_kl(x) h_kl(y)
    h_kl = z_k z_l - [k = l] s_k^2,   c_kl = 1 / (s_k s_l (s_k + s_l))

(derivatives of tr M^(1/2) by divided differences; Daleckii and Krein 1965). The mean of
the second order over x = y, / n, is the bias; its mean square over pairs is what is
left of the variance where the two laws are equal and the first order vanishes. All of
it costs one product of the features with a triangular matrix; every draw of a bootstrap
would cost as much.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import get_blas_funcs

from score_sde.evaluation.estimate import blocks

FLOAT64_WORK = 2e10
"""Above so many examples * dims^2 influences are computed in float32: six digits of a
standard error are enough."""
PAIRS = 2048
"""How many examples the second order is averaged over, at most."""


class Spread(NamedTuple):
    """Bias and standard error of a Frechet distance."""

    biases: tuple[float, float]
    """What the first and the second set add to the distance on average."""
    standard_error: float
    influences: tuple[np.ndarray, np.ndarray]
    """First order of each example of the first and of the second set."""

    @property
    def bias(self) -> float:
        """Mean excess of the distance of the sets over that of the laws."""
        return sum(self.biases)


Side = tuple[np.ndarray | None, np.ndarray, np.ndarray]
"""Features of a set, their mean, and the matrix A of z = x A. Without features the mean
and the covariance are taken as they are, and add neither bias nor error."""


def spread_of(first: Side, second: Side, singular: np.ndarray) -> Spread:
    """The spread of the distance between two sets.

    Args:
        first: features, mean and diagonalising matrix of the first set.
        second: those of the second set.
        singular: the singular values s.
    """
    step = first[1] - second[1]
    influences, biases, squares = [], [], []
    for (features, mean, matrix), direction in ((first, step), (second, -step)):
        if features is None:
            influences.append(np.empty(0))
            biases.append(0.0)
            squares.append(0.0)
            continue
        influences.append(_influences(features, mean, matrix, singular, direction))
        bias, square = _second_order(features, mean, matrix, singular)
        biases.append(bias / len(features))
        squares.append(square / len(features) ** 2)
    linear = sum(float(f.var(ddof=1)) / len(f) for f in influences if len(f))
    # Sums over pairs within each set, and one across whose kernel theirs bound.
    quadratic = 2 * sum(squares) + 4 * math.sqrt(squares[0] * squares[1])
    # Influences found from the same examples hold twice the second order's variance.
    variance = max(linear - quadratic, quadratic)
    return Spread(
        (biases[0], biases[1]), math.sqrt(variance), (influences[0], influences[1])
    )


def _influences(
    features: np.ndarray,
    mean: np.ndarray,
    matrix: np.ndarray,
    singular: np.ndarray,
    direction: np.ndarray,
) -> np.ndarray:
    """The first order of every example, centred."""
    dtype = _dtype(features, matrix)
    # sum_k z_k^2 / s_k = |U x|^2 for a triangular U: a product of half the work.
    upper = np.zeros((len(matrix), len(matrix)), dtype, order="F")
    upper[: len(singular)] = np.linalg.qr((matrix / np.sqrt(singular)).T, mode="r")
    (multiply,) = get_blas_funcs(("trmm",), (upper,))
    influence = np.empty(len(features))
    for rows in blocks(*features.shape):
        x = features[rows] - mean
        linear = 2 * (x @ direction) + np.einsum("nd,nd->n", x, x)
        z = multiply(1.0, upper, x.T.astype(dtype))
        influence[rows] = linear - np.einsum("dn,dn->n", z, z)
    return influence - influence.mean()


def _dtype(features: np.ndarray, matrix: np.ndarray) -> type[np.floating]:
    """The type of the large products."""
    return np.float32 if len(features) * matrix.size > FLOAT64_WORK else np.float64


def _second_order(
    features: np.ndarray, mean: np.ndarray, matrix: np.ndarray, singular: np.ndarray
) -> tuple[float, float]:
    """Means of the second order at one example, and of its square at two."""
    dtype = _dtype(features, matrix)
    if len(features) > PAIRS:
        chosen = np.random.default_rng(0).choice(len(features), PAIRS, replace=False)
        features = features[chosen]
    x = (features - mean).astype(dtype)
    z = x @ (matrix / singular).astype(dtype)
    # In units of s: c_kl s_k^2 s_l^2 = s_k s_l / (s_k + s_l).
    c = (singular[:, None] * singular / (singular[:, None] + singular)).astype(dtype)

    def kernel(
        x: np.ndarray, y: np.ndarray, z: np.ndarray, w: np.ndarray
    ) -> np.ndarray:
        v = z * w
        both = np.einsum("nd,nd->n", v @ c, v)
        diagonal = (z**2 + w**2 - 1) @ np.diag(c)
        return np.einsum("nd,nd->n", x, y) + (both - diagonal) / 2

    alone = kernel(x, x, z, z)
    pairs = kernel(x, np.roll(x, 1, 0), z, np.roll(z, 1, 0))
    return float(alone.mean()), float(np.mean(pairs**2))
