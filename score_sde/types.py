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

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, dataclass_transform

import jax

Array = jax.Array
Key = jax.Array
Scalar = float | Array
"""A number, or an array of numbers whose shape the docstring tells."""

NO_LABEL = -1
"""The label of an example whose class is not told."""


class Denoise(Protocol):
    """E[x0 | x0 + sigma eps = x]: the one object that all others make or use."""

    def __call__(self, x: Array, sigma: Scalar, cond: Any = None, /) -> Array: ...


class Score(Protocol):
    """The gradient of log p_t at xt."""

    def __call__(self, xt: Array, t: Scalar, cond: Any = None, /) -> Array: ...


def static(*, default: Any, kw_only: bool = False) -> Any:
    """`dataclasses.field` that JAX treats as structure, not as a number."""
    return dataclasses.field(
        default=default, kw_only=kw_only, metadata={"static": True}
    )


class UserError(ValueError):
    """A mistake that the user can mend: programs print its message alone."""


def choices_text(value: Any, choices: Any) -> str:
    """What may stand instead of a value: the nearest choice, and all of them."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess}; choose from {sorted(choices)}"


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree: jit, vmap and grad reach its fields.

    Fields marked `static()` are part of the structure instead (names, counts).
    """
    frozen = dataclasses.dataclass(frozen=True)(cls)
    return jax.tree_util.register_dataclass(frozen)


Rule = tuple[str, Callable[[Any], bool]]


def require(instance: Any, *rules: Rule) -> None:
    """Check each (text, test) rule on `instance`; raise one error naming all broken.

    A dataclass that holds tracers, or the placeholders that JAX puts in a pytree
    while it rearranges one, has no values to check and passes.

    Raises: ValueError.
    """
    values = (getattr(instance, f.name) for f in dataclasses.fields(instance))
    if not all(map(_has_a_value, values)):
        return
    broken = [text for text, holds in rules if not holds(instance)]
    if broken:
        raise ValueError(
            f"{type(instance).__name__} needs {' and '.join(broken)}, got {instance}."
        )


def _has_a_value(field: Any) -> bool:
    literal = isinstance(field, (int, float, str, tuple, type(None)))
    return literal or dataclasses.is_dataclass(field) or callable(field)
