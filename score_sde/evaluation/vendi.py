"""The Vendi score: how many different samples there are, in effect (Friedman 2023).

exp of the entropy of the eigenvalues of X X^T / n, the rows of X normalised to length
1: it is 1 for copies of one sample, n for orthogonal ones.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    blocks,
    checks_options,
    feature_array,
    interval,
)


@checks_options
def vendi_score(
    features: Any, *, level: Annotated[float | None, Level] = 0.95
) -> Estimate:
    """The Vendi score of one set of features, with the linear kernel.

    It grows with the number of samples up to a limit: compare equal numbers. The
    interval is over samples, at this number of them.

    Args:
        features: [examples, dims], floats, no row 0.
        level: that of the interval; None for none.
    Raises: ValueError for what are no features, or a row that has no direction.
    """
    array = feature_array("features", features)
    number, dims = array.shape
    lengths = np.sqrt(np.sum(np.square(array, dtype=np.float64), 1))
    if not lengths.all():
        row = int(np.argmin(lengths))
        raise ValueError(f"features[{row}] is 0; it must have a direction.")
    if number <= dims:
        _, singular, vectors = np.linalg.svd(
            array / lengths[:, None], full_matrices=False
        )
        values, axes = singular**2 / number, vectors.T
    else:
        values, axes = np.linalg.eigh(_second_moment(array, lengths))
    kept = values > 1e-15
    values, axes = values[kept], axes[:, kept]
    entropy = -float(np.sum(values * np.log(values)))
    influences = np.empty(number)
    for rows in blocks(*array.shape):
        z = array[rows] / lengths[rows, None] @ axes
        influences[rows] = -(z * z) @ np.log(values)
    value = math.exp(entropy)
    error = value * float(influences.std(ddof=1)) / math.sqrt(number)
    low, high = interval(value, error, level, lowest=1.0, highest=min(array.shape))
    return Estimate(
        value,
        low,
        high,
        level,
        "infinitesimal jackknife over images; for the score at this number of them",
        {"num_fake": number, "dims": dims},
        parts={"standard_error": error},
    )


def _second_moment(array: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The mean of x x^T over rows of length 1."""
    total = np.zeros((array.shape[1],) * 2)
    for rows in blocks(*array.shape):
        unit = array[rows] / lengths[rows, None]
        total += unit.T @ unit
    return total / len(array)
