"""Laws that are known, and distances to them."""

from __future__ import annotations

import numpy as np


def sliced_distance(
    a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Mean over 64 directions of the Wasserstein-1 distance of projected points.

    Args:
        a: points, [count, dims].
        b: points, [count, dims].
        weights: of the points of a; None for equal ones.
    """
    random = np.random.RandomState(0)
    directions = random.normal(size=(64, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    share = (np.arange(2_000) + 0.5) / 2_000
    total = 0.0
    for direction in directions:
        line = a @ direction
        order = np.argsort(line)
        w = np.ones(len(line)) if weights is None else weights[order]
        edges = (np.cumsum(w) - 0.5 * w) / w.sum()
        found = np.interp(share, edges, line[order])
        total += np.abs(found - np.quantile(b @ direction, share)).mean()
    return total / len(directions)


def moments(
    x: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of points, [count, dims], perhaps weighted."""
    return np.average(x, 0, weights), np.cov(x.T, aweights=weights)


def errors(
    found: tuple[np.ndarray, np.ndarray], exact: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """Errors of mean, in standard deviations, and of covariance, relative."""
    (mean, covariance), (true_mean, true_covariance) = found, exact
    scale = np.sqrt(np.trace(true_covariance) / len(true_mean))
    return {
        "mean": float(np.linalg.norm(mean - true_mean) / scale),
        "covariance": float(
            np.linalg.norm(covariance - true_covariance)
            / np.linalg.norm(true_covariance)
        ),
    }
