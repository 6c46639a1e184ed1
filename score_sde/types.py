"""The words of this library, once.

x0      clean data, [batch, *dims], scaled to [-1, 1] when it is an image
t       time of an SDE, growing with noise; a scalar or one value per example
alpha   scale of the data in xt
sigma   noise level relative to the data: what a denoiser sees
std     alpha * sigma: standard deviation of the noise in xt
eps     standard normal noise, shaped like x0
xt      alpha * (x0 + sigma * eps)
key     a JAX random key, always the first argument of what is random
cond    what the data depend on: any pytree whose leaves lead with [batch], or None;
        of classes {"label": int [batch]}, where -1 says nothing
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Num

Array = jax.Array
Key = jax.Array
Scalar = float | Array
"""A number, or an array of numbers whose shape the docstring tells."""

# What the doors of the library take: NumPy's arrays and numbers, and lists of numbers,
# serve as JAX's arrays.
if TYPE_CHECKING:
    Points = Array
    Level = Scalar
    Times = Scalar
    Grid = Array
else:
    _Any = jax.Array | np.ndarray
    _Other = float | np.number | list | tuple

    Points = Num[_Any, "batch *dims"] | list | tuple
    """Examples, [batch, *dims]."""
    Level = _Other | Num[_Any, ""] | Num[_Any, " batch"]
    """A noise level or a time: a scalar, or one per example."""
    Times = _Other | Num[_Any, "*times"]
    """Times of any shape, for functions that act on each of them."""
    Grid = Num[_Any, " levels"] | list | tuple
    """A row of noise levels or times."""

Params = Any
"""Parameters of a network, or of another part that learns: a pytree of arrays."""

NO_LABEL = -1
"""The label of an example whose class is not told."""


@runtime_checkable
class Denoise(Protocol):
    """The denoiser E[x0 | x0 + sigma eps = x], which all other objects make or use."""

    def __call__(self, x: Array, sigma: Level, cond: Any = None, /) -> Array: ...


@runtime_checkable
class Score(Protocol):
    """The gradient of log p_t at xt."""

    def __call__(self, xt: Array, t: Level, cond: Any = None, /) -> Array: ...


@runtime_checkable
class Jump(Protocol):
    """The jump denoiser G, with which one Euler step is a whole jump of the flow map.

    X(x; sigma -> sigma_next) = x + (sigma_next/sigma - 1)(x - G(x, sigma, sigma_next)).
    """

    def __call__(
        self, x: Array, sigma: Level, sigma_next: Level, cond: Any = None, /
    ) -> Array: ...


class UserError(ValueError):
    """A mistake that the user can mend: programs print its message alone."""


def choices_text(value: Any, choices: Any) -> str:
    """Describe what may stand instead of a value: the nearest choice, and all."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess}; choose from {sorted(choices)}"
