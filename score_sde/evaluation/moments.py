"""Means and covariances of features that arrive in parts, merged in float64.

(n, mean, M2) of two parts gives that of both (Chan et al. 1983): the result depends
neither on batch sizes nor on how many hosts saw the examples, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation.estimate import blocks, feature_array

ASYMMETRY = 1e-5
"""How far a covariance may be from symmetric, in units of its largest entry: sums in
float32 are."""


class Moments(NamedTuple):
    """Number, mean and centred second moment of feature vectors, in float64."""

    number: int
    mean: np.ndarray
    scatter: np.ndarray
    """Sum over examples of (x - mean) (x - mean)^T, [dims, dims]."""

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, scatter / (number - 1)."""
        return self.scatter / (self.number - 1)


def moments_of(features: Any, *, name: str = "features") -> Moments:
    """The moments of an array [examples, dims], in one pass over blocks of rows.

    Raises: ValueError if the array holds no features; see `feature_array`.
    """
    array = feature_array(name, features, at_least=1)
    shift = array[: min(len(array), 1024)].mean(0, dtype=np.float64)
    total = np.zeros(array.shape[1])
    scatter = np.zeros((array.shape[1],) * 2)
    for rows in blocks(*array.shape):
        part = array[rows] - shift
        total += part.sum(0)
        scatter += part.T @ part
    number = len(array)
    offset = total / number
    scatter -= number * np.outer(offset, offset)
    return Moments(number, shift + offset, scatter)


def merge_moments(parts: Iterable[Moments]) -> Moments:
    """The moments of all examples from the moments of parts of them.

    Raises: ValueError for no parts, or for parts of different numbers of features.
    """
    merged: Moments | None = None
    for part in parts:
        if merged is None:
            merged = part
            continue
        if part.mean.shape != merged.mean.shape:
            raise ValueError(
                f"parts have {len(merged.mean)} and {len(part.mean)} features; they "
                "must have the same."
            )
        number = merged.number + part.number
        step = part.mean - merged.mean
        weight = merged.number * part.number / number
        merged = Moments(
            number,
            merged.mean + step * (part.number / number),
            merged.scatter + part.scatter + weight * np.outer(step, step),
        )
    if merged is None:
        raise ValueError("parts is empty; it must have one or more.")
    return merged


def moments_problem(mean: Any, matrix: Any, *, kind: str = "covariance") -> str | None:
    """Say why a mean and a covariance, or a scatter, are none; None if they are some.

    Args:
        mean: must be [dims].
        matrix: must be [dims, dims], symmetric, no variance below 0.
        kind: what the text calls the matrix.
    """
    mean, matrix = np.asarray(mean), np.asarray(matrix)
    if mean.ndim != 1 or not len(mean) or matrix.shape != (len(mean), len(mean)):
        return (
            f"has a mean of {mean.shape} and a {kind} of {matrix.shape}; they must be "
            "[dims] and [dims, dims]."
        )
    if not (np.isfinite(mean).all() and np.isfinite(matrix).all()):
        return "holds NaN or inf; it must be finite."
    largest, skew = np.abs(matrix).max(), np.abs(matrix - matrix.T).max()
    if skew > ASYMMETRY * largest or (np.diag(matrix) < 0).any():
        return (
            f"has a {kind} that is not symmetric, or with a variance below 0: it is "
            "damaged."
        )
    return None
