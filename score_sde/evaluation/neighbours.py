"""Nearest neighbours among features: exact distances, in blocks of bounded memory.

Products of matrices give |x|^2 + |y|^2 - 2 x y, which loses all digits where points are
close. Wherever that error could change an order or a comparison, the distance is
computed again from differences: repeated points have distance 0, ties stay ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from score_sde.evaluation.estimate import blocks

EPS = float(np.finfo(np.float64).eps)


class Block(NamedTuple):
    """Squared distances of some rows of one set to all of another, and their error."""

    rows: slice
    x: np.ndarray
    squares: np.ndarray
    """[rows, others], in float64."""
    error: np.ndarray
    """A bound of the error of each row's squares, [rows, 1]."""


def distance_blocks(x: np.ndarray, y: np.ndarray) -> Iterator[Block]:
    """Squared distances of x [n, dims] to y [m, dims], block after block of x."""
    centre = y.mean(0, dtype=np.float64)
    centred = [y[cut].astype(np.float64) - centre for cut in blocks(*y.shape)]
    norms = [np.einsum("nd,nd->n", part, part) for part in centred]
    largest = max(float(n.max()) for n in norms)
    for rows in blocks(len(x), max(x.shape[1], len(y))):
        left = x[rows].astype(np.float64) - centre
        own = np.einsum("nd,nd->n", left, left)[:, None]
        squares = np.empty((len(left), len(y)))
        start = 0
        for part, norm in zip(centred, norms, strict=True):
            here = squares[:, start : start + len(part)]
            np.matmul(left, part.T, out=here)
            here *= -2
            here += own
            here += norm
            start += len(part)
        error = (4 * x.shape[1] + 16) * EPS * (own + largest)
        yield Block(rows, x[rows], np.maximum(squares, 0, out=squares), error)


def exact_squares(
    x: np.ndarray, y: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Squared distances of pairs (i of x, j of y), from differences."""
    left, right = pairs
    out = np.empty(len(left))
    for some in blocks(len(left), x.shape[1]):
        difference = x[left[some]].astype(np.float64) - y[right[some]]
        out[some] = np.sum(difference * difference, axis=1)
    return out


def nearest(
    x: np.ndarray, y: np.ndarray, k: int = 1, *, same: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and indices of the k nearest of y to each of x, [n, k].

    Args:
        x: [n, dims].
        y: [m, dims], m at least k (k + 1 if `same`).
        k: how many.
        same: whether y is x, so that the i-th is no neighbour of the i-th.
    """
    squares = np.empty((len(x), k))
    indices = np.empty((len(x), k), np.int64)
    for block in distance_blocks(x, y):
        d, rows = block.squares, np.arange(len(block.x))
        if same:
            d[rows, rows + block.rows.start] = np.inf
        kth = np.partition(d, k - 1, axis=1)[:, k - 1 : k]
        i, j = np.nonzero(d <= kth + 2 * block.error)
        d[i, j] = exact_squares(block.x, y, (i, j))
        if same:
            d[rows, rows + block.rows.start] = np.inf
        chosen = np.argpartition(d, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(d, chosen, 1)
        order = np.lexsort((chosen, values), axis=1)
        squares[block.rows] = np.take_along_axis(values, order, 1)
        indices[block.rows] = np.take_along_axis(chosen, order, 1)
    return squares, indices


class Inside(NamedTuple):
    """Which points lie in which balls, counted both ways."""

    balls_of_point: np.ndarray
    """How many balls each point is in, [points]."""
    points_of_ball: np.ndarray
    """How many points each ball has in it, [balls]."""
    only_point: np.ndarray
    """Of balls that have one point in them: which; -1 for others."""


def count_inside(
    points: np.ndarray, centres: np.ndarray, radii_squared: np.ndarray, *, closed: bool
) -> Inside:
    """Count the points in balls around centres.

    Args:
        points: [points, dims].
        centres: [balls, dims].
        radii_squared: [balls].
        closed: whether a point at the radius itself is inside.
    """
    balls = np.zeros(len(points), np.int64)
    counts = np.zeros(len(centres), np.int64)
    sums = np.zeros(len(centres), np.int64)
    for block in distance_blocks(points, centres):
        d = block.squares
        i, j = np.nonzero(np.abs(d - radii_squared) <= 2 * block.error)
        d[i, j] = exact_squares(block.x, centres, (i, j))
        inside = d <= radii_squared if closed else d < radii_squared
        balls[block.rows] = inside.sum(1)
        counts += inside.sum(0)
        sums += np.arange(block.rows.start, block.rows.stop) @ inside
    return Inside(balls, counts, np.where(counts == 1, sums, -1))
