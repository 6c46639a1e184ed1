"""Linear measurements of one's own: a function, and its adjoint if one has it."""

from __future__ import annotations

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import expand_like, sum_over_data
from score_sde.fields import pytree, static
from score_sde.measurements.measurement import (
    Linear,
    Measurement,
    conjugate_gradients,
    require_real,
)
from score_sde.rules import at_least
from score_sde.types import Array, Key, Scalar


@pytree
class Operator(Measurement):
    """A linear map given by `apply` alone, or by `apply` and `adjoint`.

    Complex measurements are stacked: `apply` gives real and imaginary parts as numbers
    of their own, as `fourier` does.

    Args:
        apply: x -> A x, linear, of a batch.
        adjoint: y -> A' y, of a batch. None to derive it from `apply`, which then must
            be made of JAX's functions, and needs `shape`.
        shape: the shape of one example of x, for an adjoint that is derived.
        num_iterations: of conjugate gradients, by which it is solved; as many as A A'
            has distinct eigenvalues are exact.
    """

    apply: Linear = static(default=None)
    adjoint: Linear | None = static(default=None)
    shape: tuple[int, ...] = static(default=())
    num_iterations: Annotated[int, at_least(1)] = static(default=20)

    has_spectrum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.apply is None or (self.adjoint is None and not self.shape):
            raise ValueError(
                "Operator needs apply, and either its adjoint or the shape of an "
                f"example from which to derive it; got apply {self.apply}, adjoint "
                f"{self.adjoint}, shape {self.shape}."
            )

    def __call__(self, x: Array) -> Array:
        image = self.apply(x)
        require_real(image, "A x of Operator")
        return image

    def transpose(self, y: Array) -> Array:
        if self.adjoint is not None:
            return self.adjoint(y)
        like = jax.ShapeDtypeStruct((len(y), *self.shape), y.dtype)
        (x,) = jax.linear_transpose(self.apply, like)(y)
        return x

    def solve(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        def matrix(v: Array) -> Array:
            image = self(self.transpose(v))
            return expand_like(scale, v) * image + expand_like(shift, v) * v

        # Without a shift, what A never gives has no solution to converge to.
        y = jnp.where(expand_like(shift, y) > 0, y, self.project(y))
        return conjugate_gradients(matrix, y, self.num_iterations)

    def lift(self, y: Array, scale: Scalar, shift: Scalar) -> Array:
        """Solve in the space of x, where A' y has a solution whatever y is.

        A' (scale A A' + shift I)^-1 y is (scale A' A + shift I)^-1 A' y, and there are
        the same distinct eigenvalues but for 0.
        """

        def matrix(v: Array) -> Array:
            image = self.transpose(self(v))
            return expand_like(scale, v) * image + expand_like(shift, v) * v

        return conjugate_gradients(matrix, self.transpose(y), self.num_iterations)

    def without_unmeasured(self, y: Array) -> Array:
        """Return y itself: all of it was measured, be it what only noise can give."""
        return y


def adjoint_error(measurement: Measurement, key: Key, shape: tuple[int, ...]) -> float:
    """Compare y' (A x) with (A' y)' x, relative to |A x| |y|, at random x, y.

    It is of the order of rounding if the adjoint is the adjoint.

    Args:
        measurement: A, linear.
        key: for x and y.
        shape: of one example of x.
    """
    key_x, key_y = jr.split(key)
    x = jr.normal(key_x, (1, *shape))
    image = measurement(x)
    y = jr.normal(key_y, image.shape, image.dtype)
    one, other = sum_over_data(image * y), sum_over_data(x * measurement.transpose(y))
    size = jnp.sqrt(sum_over_data(image**2) * sum_over_data(y**2))
    return float((jnp.abs(one - other) / size)[0])


def fourier(mask: np.ndarray | Array, *, num_iterations: int = 20) -> Operator:
    """Measure waves of each channel, as magnetic resonance does: a masked transform.

    The transform is orthonormal; its real and imaginary parts are stacked as channels,
    so that noise of standard deviation s is in each of them.

    Args:
        mask: not 0 where a wave is measured, [height, width], the lowest at [0, 0].
        num_iterations: as in `Operator`.
    """
    kept = jnp.asarray(np.asarray(mask) != 0)[None, :, :, None]

    def apply(x: Array) -> Array:
        waves = jnp.fft.fft2(x, axes=(1, 2), norm="ortho")
        waves = jnp.where(kept, waves, 0)
        return jnp.concatenate([waves.real, waves.imag], axis=-1).astype(x.dtype)

    def adjoint(y: Array) -> Array:
        real, imaginary = jnp.split(y, 2, axis=-1)
        waves = jnp.where(kept, jax.lax.complex(real, imaginary), 0)
        return jnp.fft.ifft2(waves, axes=(1, 2), norm="ortho").real.astype(y.dtype)

    return Operator(apply, adjoint, num_iterations=num_iterations)
