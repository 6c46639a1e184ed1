"""The two sides of a Frechet distance: features, or moments that are taken as they are.

What is not comparable is refused here, for all distances alike: other numbers of
features, moments that are none, and statistics whose origins name other features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation.estimate import feature_array, feature_arrays, set_counts
from score_sde.evaluation.moments import Moments, moments_problem
from score_sde.evaluation.statistics import Statistics, difference


class Sides(NamedTuple):
    """Both sides of a distance, checked."""

    first: np.ndarray | None
    """Features [examples, dims] of the first side; None where it is moments."""
    second: np.ndarray | None
    """Features of the second side; None where it is moments."""
    counts: dict[str, int]
    """num_real and num_fake of those that are known, and dims."""


def comparable_sides(names: tuple[str, str], first: Any, second: Any) -> Sides:
    """Check what a Frechet distance is given.

    Args:
        names: what errors call the arguments.
        first: features [examples, dims], or `Moments` or `Statistics` of some.
        second: the same of the other side.
    Raises: ValueError for what is not comparable.
    """
    if not is_moments(first) and not is_moments(second):
        x, y = feature_arrays(names, first, second)
        return Sides(x, y, set_counts(x, y))
    one, other = _side(names[0], first), _side(names[1], second)
    if one.dims != other.dims:
        raise ValueError(
            f"{names[1]} has {other.dims} features; it must have {one.dims}, like "
            f"{names[0]}: features of two extractors are not comparable."
        )
    _check_origins(names, first, second)
    numbers = {"num_real": one.number, "num_fake": other.number}
    counts = {name: n for name, n in numbers.items() if n is not None}
    return Sides(one.features, other.features, {**counts, "dims": one.dims})


def is_moments(side: Any) -> bool:
    """Whether a side is `Moments` or `Statistics` in place of features."""
    return isinstance(side, (Moments, Statistics))


def few_examples(counts: dict[str, int]) -> tuple[str, ...]:
    """The warning of a distance of no more examples than features; () without cause."""
    known = [counts[name] for name in ("num_real", "num_fake") if name in counts]
    if not known or min(known) > counts["dims"]:
        return ()
    return (
        f"n = {min(known)} examples are no more than the {counts['dims']} features: "
        "this Frechet distance is mostly bias.",
    )


class _Side(NamedTuple):
    features: np.ndarray | None
    number: int | None
    dims: int


def _side(name: str, side: Any) -> _Side:
    """One side, checked.

    Raises: ValueError for what are neither features nor moments.
    """
    if not is_moments(side):
        array = feature_array(name, side)
        return _Side(array, *array.shape)
    if side.number is not None and side.number < 2:
        raise ValueError(f"{name} is of {side.number} examples, not 2 or more.")
    kind = "scatter" if isinstance(side, Moments) else "covariance"
    if problem := moments_problem(side.mean, getattr(side, kind), kind=kind):
        raise ValueError(f"{name} {problem}")
    return _Side(None, side.number, len(side.mean))


def _check_origins(names: tuple[str, str], first: Any, second: Any) -> None:
    """Refuse statistics that say that they are of other features.

    Raises: ValueError naming what differs.
    """
    origins = [getattr(side, "origin", None) for side in (first, second)]
    if origins[0] is None or origins[1] is None:
        return
    text = difference(origins[0]["features"], origins[1]["features"], names=names)
    if text is not None:
        raise ValueError(f"they {text}")
