"""Means and covariances of features that arrive in parts, merged in float64.

(n, mean, M2) of two parts gives that of both (Chan et al. 1983): the result depends
neither on batch sizes nor on how many hosts saw the examples, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation.estimate import blocks, feature_array


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
