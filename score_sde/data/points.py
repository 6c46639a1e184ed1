"""Two-dimensional toys, inside [-1, 1]^2: 50,000 points to train, 5,000 to test."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from score_sde.data.dataset import Dataset, InMemory

Draw = Callable[[np.random.RandomState, int], np.ndarray]


def rings() -> Dataset:
    """Make the data set of three concentric rings, equally likely, blurred by 0.02."""
    return _dataset("rings", _rings)


def checkerboard() -> Dataset:
    """Make the data set of the eight dark squares of a 4x4 board.

    They are filled evenly: the log-density is -log 2.
    """
    return _dataset("checkerboard", _checkerboard)


def spirals() -> Dataset:
    """Make the data set of two interleaved spirals, blurred by 0.02."""
    return _dataset("spirals", _spirals)


def mixture() -> Dataset:
    """Make the data set of eight Gaussians on a circle of radius 0.7.

    Their standard deviation is 0.08.
    """
    return _dataset("mixture", _mixture)


def mixture_centres() -> np.ndarray:
    """Compute the means of `mixture`, [8, 2]."""
    angle = 2 * math.pi * np.arange(8) / 8
    return 0.7 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _dataset(name: str, draw: Draw) -> Dataset:
    return Dataset(name, (2,), None, 0, partial(_drawn, draw))


def _drawn(draw: Draw, split: str) -> InMemory:
    points = draw(np.random.RandomState(0), 55_000).astype(np.float32)
    return InMemory(points[:5_000] if split == "test" else points[5_000:])


def _rings(random: np.random.RandomState, count: int) -> np.ndarray:
    radius = random.choice([0.25, 0.5, 0.75], count)
    angle = random.uniform(0, 2 * math.pi, count)
    return _blurred(random, _polar(radius, angle))


def _checkerboard(random: np.random.RandomState, count: int) -> np.ndarray:
    row, half = random.randint(4, size=count), random.randint(2, size=count)
    column = 2 * half + row % 2
    corner = np.stack([column, row], axis=1) / 2 - 1
    return corner + random.uniform(0, 0.5, (count, 2))


def _spirals(random: np.random.RandomState, count: int) -> np.ndarray:
    turn = np.sqrt(random.uniform(size=count))
    angle = 3 * math.pi * turn + math.pi * random.randint(2, size=count)
    return _blurred(random, _polar(0.9 * turn, angle))


def _mixture(random: np.random.RandomState, count: int) -> np.ndarray:
    centre = mixture_centres()[random.randint(8, size=count)]
    return centre + 0.08 * random.normal(size=(count, 2))


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _blurred(random: np.random.RandomState, points: np.ndarray) -> np.ndarray:
    return points + 0.02 * random.normal(size=points.shape)
