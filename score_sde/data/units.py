"""The user's units of points: the affine map between them and what a model sees.

A model sees values of mean 0 and standard deviation 1; u = shift + scale x gives them
back in the units that they came in. Shift and scale are one number for each entry of
the last axis: a column of a table, a channel of a series.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Units(NamedTuple):
    """The map u = shift + scale x of the last axis; empty tuples for u = x."""

    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    """Positive."""

    def to_units(self, x: Any) -> Any:
        """Turn values that a model sees into the user's units, in double precision."""
        if not self.scale:
            return x
        wide = np.asarray(x, np.float64)
        return np.asarray(self.shift) + np.asarray(self.scale) * wide

    def from_units(self, u: Any) -> Any:
        """Turn values in the user's units into what a model sees: float32."""
        if not self.scale:
            return u
        wide = np.asarray(u, np.float64) - np.asarray(self.shift)
        return (wide / np.asarray(self.scale)).astype(np.float32)

    def log_scale(self, shape: tuple[int, ...]) -> float:
        """Log-determinant of the map for one example, in nats.

        log p(u) = log p(x) - log_scale: the log-density in the user's units, from that
        of a model.

        Args:
            shape: of one example.
        """
        return math.prod(shape[:-1]) * math.fsum(map(math.log, self.scale))

    def problem(self, shape: tuple[int, ...]) -> str | None:
        """Say why the map does not suit examples of this shape; None if it does."""
        found = (len(self.shift), len(self.scale))
        if found not in ((0, 0), (shape[-1], shape[-1])):
            return f"shift and scale have {found} entries; expected {shape[-1]} each"
        if not all(map(math.isfinite, self.shift)):
            return f"shift is {self.shift}; it must be finite"
        if not all(0 < s < math.inf for s in self.scale):
            return f"scale is {self.scale}; it must be > 0 and finite"
        return None


def num_repeating(values: np.ndarray) -> int:
    """Count the numbers of an example that are not continuous among these examples.

    More than half of their values occur twice or more: constants, counts, classes. The
    density of such a number has no upper limit, so that longer training makes every
    log-density larger.

    Args:
        values: floats [examples, *shape].
    """
    ordered = np.sort(values.reshape(len(values), -1), axis=0)
    same = (ordered[1:] == ordered[:-1]).sum(0)
    return int(np.count_nonzero(same > len(values) / 2))


AS_STORED = Units()
"""The map that changes nothing."""
