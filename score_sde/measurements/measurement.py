"""Measurements, and the solution of (scale A A' + shift I) z = y."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from score_sde.arrays import expand_like, sum_over_data
from score_sde.fields import pytree
from score_sde.types import Array, Scalar

NEGLIGIBLE = 1e-6
"""Directions that A shrinks by more than its square root count as not measured."""

Linear = Callable[[Array], Array]
"""A linear map of a batch, example by example."""


@pytree
class Measurement:
    """A map of examples. Subclasses give A; linear ones also its transpose and more."""

    is_linear: ClassVar[bool] = True
    """Whether A is linear, so that it has a transpose and can be solved."""
    has_spectrum: ClassVar[bool] = True
    """Whether `filter` is there: its singular values are known."""
    has_inverse: ClassVar[bool] = True
    """Whether `pseudo_inverse` and `nearest` are there."""

    def __call__(self, x: Array) -> Array:
        """Measure: A x, [batch, ...]."""
        raise NotImplementedError

    def transpose(self, y: Array) -> Array:
        """Apply the transpose: A' y, shaped like x."""
        raise NotImplementedError

    def pull(self, x: Array, y: Array) -> Array:
        """Apply the transpose of the derivative of A at x to y; shaped like x."""
        del x
        return self.transpose(y)

    def filter(self, y: Array, gain: Callable[[Array], Array]) -> Array:
        """Apply U gain(S^2) U' to y, where A = U S V' is the singular decomposition.

        Args:
            y: a measurement, [batch, ...].
            gain: squared singular values, of a shape that multiplies y (or a transform
                of it), -> factors of that shape, or of one that leads with the batch.
        """
        raise NotImplementedError

    def solve(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        """Solve (scale A A' + shift I) z = y; 0 where that has no inverse.

        Args:
            y: a measurement, [batch, ...].
            scale: a scalar or [batch], not negative.
            shift: a scalar or [batch], not negative.
        """

        def inverse(gram: Array) -> Array:
            level, floor = (expand_like(a, y).astype(y.dtype) for a in (scale, shift))
            by = level * gram + floor
            some = by > 0
            return jnp.where(some, 1 / jnp.where(some, by, 1.0), 0.0)

        return self.filter(y, inverse)

    def lift(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        """Apply A' (scale A A' + shift I)^-1 to y; shaped like x.

        Args:
            y: a measurement, [batch, ...], which need not be in the range of A.
            scale: a scalar or [batch], not negative.
            shift: a scalar or [batch], not negative; 0 for the pseudo-inverse.
        """
        return self.transpose(self.solve(y, scale, shift))

    def pseudo_inverse(self, y: Array) -> Array:
        """Find the smallest x whose A x is nearest to y."""
        return self.lift(y, 1.0, 0.0)

    def project(self, y: Array) -> Array:
        """Keep of y what A x can be: 0 under a mask, whatever y says there."""
        return self(self.pseudo_inverse(y))

    def without_unmeasured(self, y: Array) -> Array:
        """Set to 0 what y says where nothing is measured, as under a mask."""
        return self.project(y)

    def nearest(self, x: Array, y: Array) -> Array:
        """Move x to the nearest point whose A x is nearest to y."""
        return x + self.pseudo_inverse(self.without_unmeasured(y) - self(x))


def require_real(values: Any, name: str) -> None:
    """Refuse complex numbers, whose imaginary parts would be cut off.

    Raises: ValueError.
    """
    if jnp.iscomplexobj(values):
        raise ValueError(
            f"{name} is complex; stack real and imaginary parts as channels, in y and "
            "in what apply gives, as measurements.fourier does."
        )


def measured(gram: Array) -> Array:
    """Tell eigenvalues of A A' that count from those that are 0 but for rounding."""
    return gram > NEGLIGIBLE * gram.max()


def conjugate_gradients(matrix: Linear, b: Array, num_iterations: int) -> Array:
    """Solve matrix(v) = b for each example by itself (Hestenes and Stiefel 1952).

    An example whose residual has come down to rounding stays as it is: in directions
    where the matrix is 0, further steps would blow up what rounding has left there.
    """
    solved = (10 * jnp.finfo(b.dtype).eps) ** 2 * sum_over_data(b**2)

    def ratio(a: Array, b: Array) -> Array:
        some = (b > 0) & (a > solved)
        return expand_like(jnp.where(some, a / jnp.where(some, b, 1.0), 0.0), v)

    def iterate(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, ...]:
        v, rest, direction = state
        image = matrix(direction)
        length = sum_over_data(rest**2)
        move = ratio(length, sum_over_data(direction * image))
        v, rest = v + move * direction, rest - move * image
        direction = rest + ratio(sum_over_data(rest**2), length) * direction
        return v, rest, direction

    v = jnp.zeros_like(b)
    return jax.lax.fori_loop(0, num_iterations, iterate, (v, b, b))[0]
