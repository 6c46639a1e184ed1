"""Nearest neighbours among features: exact distances, in blocks of bounded memory.

Products of matrices in single precision give |x|^2 + |y|^2 - 2 x y, which loses all
digits where points are close. Wherever that error could change an order or a
comparison, the distance is computed again from differences in double precision:
repeated points have distance 0, ties stay ties. Where these are many, as in clusters
far apart, the products of the block are computed again in double precision first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from score_sde.evaluation.estimate import blocks

RECHECKED = 0.02
"""Share of a block's pairs up to which differences cost less than other products."""


class Block(NamedTuple):
    """Squared distances of some rows of one set to all of another, and their error."""

    rows: slice
    squares: np.ndarray
    """[rows, others], in float64."""
    error: np.ndarray
    """A bound of the error of each row's squares, [rows, 1]."""


class Distances:
    """Squared distances of x [n, dims] to y [m, dims], block after block of x."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self._x, self._y = x, y
        self._centre = y.mean(0, dtype=np.float64)
        # In units of the largest number nothing overflows, and what underflows is far
        # below the error.
        largest = [np.abs(part).max() for side in (x, y) for part in self._parts(side)]
        self._scale = float(max(largest)) or 1.0
        units = (part / self._scale for part in self._parts(y))
        self._norms = np.concatenate([np.einsum("nd,nd->n", u, u) for u in units])

    def settled(self, near: Callable[[Block], np.ndarray]) -> Iterator[Block]:
        """Blocks of squares that are exact wherever `near` says that errors matter.

        Args:
            near: block -> which of its squares must be exact, [rows, others]. It is
                asked twice of a block that is computed again.
        """
        single = [(p / self._scale).astype(np.float32) for p in self._parts(self._y)]
        for rows in blocks(len(self._x), max(self._x.shape[1], len(self._y))):
            block = self._block(rows, single)
            asked = near(block)
            if np.count_nonzero(asked) > RECHECKED * asked.size:
                double = (p / self._scale for p in self._parts(self._y))
                block = self._block(rows, double)
                asked = near(block)
            i, j = np.nonzero(asked)
            block.squares[i, j] = exact_squares(self._x[rows], self._y, (i, j))
            yield block

    def _parts(self, side: np.ndarray) -> Iterator[np.ndarray]:
        """A set around the mean of y, in parts."""
        for cut in blocks(*side.shape):
            yield side[cut].astype(np.float64) - self._centre

    def _block(self, rows: slice, others: Iterable[np.ndarray]) -> Block:
        """The block of these rows, by products in the precision of `others`."""
        left = (self._x[rows].astype(np.float64) - self._centre) / self._scale
        own = np.einsum("nd,nd->n", left, left)[:, None]
        squares, start, eps = np.empty((len(left), len(self._y))), 0, 0.0
        for part in others:
            product = left.astype(part.dtype) @ part.T
            np.multiply(product, -2.0, out=squares[:, start : start + len(part)])
            start, eps = start + len(part), float(np.finfo(part.dtype).eps)
        squares += own
        squares += self._norms
        squares *= self._scale**2
        # Twice that of a product, which is at most dims eps |x| |y| / 2 in any order.
        relative = (left.shape[1] + 16) * eps * self._scale**2
        error = relative * (own + self._norms.max())
        return Block(rows, np.maximum(squares, 0, out=squares), error)


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

    def near(block: Block) -> np.ndarray:
        d, rows = block.squares, np.arange(len(block.squares))
        if same:
            d[rows, rows + block.rows.start] = np.inf
        kth = np.partition(d, k - 1, axis=1)[:, k - 1 : k]
        return np.asarray(d <= kth + 2 * block.error)

    squares = np.empty((len(x), k))
    indices = np.empty((len(x), k), np.int64)
    for block in Distances(x, y).settled(near):
        chosen = np.argpartition(block.squares, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(block.squares, chosen, 1)
        order = np.lexsort((chosen, values), axis=1)
        squares[block.rows] = np.take_along_axis(values, order, 1)
        indices[block.rows] = np.take_along_axis(chosen, order, 1)
    return squares, indices


class Inside(NamedTuple):
    """Counts of points in balls: of balls by point, and of points by ball."""

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
    within = np.less_equal if closed else np.less

    def near(block: Block) -> np.ndarray:
        return np.asarray(np.abs(block.squares - radii_squared) <= 2 * block.error)

    balls = np.zeros(len(points), np.int64)
    counts = np.zeros(len(centres), np.int64)
    sums = np.zeros(len(centres), np.int64)
    for block in Distances(points, centres).settled(near):
        inside = within(block.squares, radii_squared)
        balls[block.rows] = inside.sum(1)
        counts += inside.sum(0)
        sums += np.arange(block.rows.start, block.rows.stop) @ inside
    return Inside(balls, counts, np.where(counts == 1, sums, -1))


def inside_any(
    first: np.ndarray,
    second: np.ndarray,
    radii_squared: tuple[np.ndarray, np.ndarray],
    *,
    closed: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the points of either set that are in a ball around any of the other.

    Args:
        first: [n, dims].
        second: [m, dims].
        radii_squared: of the balls around either, [n] and [m].
        closed: whether a point at the radius itself is inside.

    Returns:
        Whether each of first is, [n], and each of second, [m].
    """
    within = np.less_equal if closed else np.less
    of_first, of_second = radii_squared
    firsts, seconds = np.zeros(len(first), bool), np.zeros(len(second), bool)

    def near(block: Block) -> np.ndarray:
        """The pairs on a ball's surface, where no other ball decides for the point."""
        d, error, own = block.squares, 2 * block.error, of_first[block.rows, None]
        open_rows = ~(d < of_second - error).any(1)[:, None]
        open_columns = ~(seconds | (d < own - error).any(0))
        rows = open_rows & (np.abs(d - of_second) <= error)
        return np.asarray(rows | (open_columns & (np.abs(d - own) <= error)))

    for block in Distances(first, second).settled(near):
        firsts[block.rows] = within(block.squares, of_second).any(1)
        seconds |= within(block.squares, of_first[block.rows, None]).any(0)
    return firsts, seconds
