"""Needs of a guidance function beside a denoiser, stated by the function itself.

- Another model, such as a worse one or a classifier, is a keyword-only parameter
  without a default. Its name is the role of the run that offers it: `worse`,
  `classifier`. Two names are offered by the run itself: `grid`, the noise levels that
  are sampled on, and `perturbed`, the model with parts of its network left out.
- A condition is stated by the decorator `needs_condition`. A function without the
  decorator needs none.
- Steps of Euler's alone are stated by the decorator `for_euler_steps`.
- Every other parameter is an option, a literal that a config may set.

`models_needed`, `condition_needed` and `bind` read this from any function, registered
or a stranger's, and look through `functools.partial`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from score_sde.fields import MISSING, Field, fields_of, is_literal
from score_sde.types import Array, Denoise, Scalar

Guide = TypeVar("Guide", bound=Callable[..., Denoise])


def needs_condition(*entries: str, **by_option: str) -> Callable[[Guide], Guide]:
    """Decorate a guidance function whose denoiser must be given a condition.

    Args:
        entries: the entries that the condition must have; none of them if any
            condition will do.
        by_option: option -> the entry that it names, needed where the option is not
            left at its default. Of functions with such options alone, any condition
            will do as long as none is set.

    Example:
        `@needs_condition("label")` of a classifier's guidance;
        `@needs_condition(negative_label="label")` of a guidance away from a class.
    """

    def decorate(guide: Guide) -> Guide:
        guide.condition_entries = entries  # type: ignore[attr-defined]
        guide.condition_options = by_option  # type: ignore[attr-defined]
        return guide

    return decorate


def for_euler_steps(guide: Guide) -> Guide:
    """Decorate a guidance function that is exact for Euler's steps alone."""
    guide.for_euler_steps = True  # type: ignore[attr-defined]
    return guide


def needs_euler_steps(guide: Callable[..., Any]) -> bool:
    """Return whether a guidance function is for Euler's steps alone."""
    return getattr(_unbound(guide)[0], "for_euler_steps", False)


def condition_needed(guide: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names of the condition's entries that a guidance function needs.

    Returns:
        None if it needs no condition at all, and () if any condition will do.
    """
    guide, options = _unbound(guide)
    entries = getattr(guide, "condition_entries", None)
    if entries is None:
        return None
    parameters = inspect.signature(guide).parameters
    named = (
        entry
        for option, entry in guide.condition_options.items()  # type: ignore[attr-defined]
        if option in options and options[option] != parameters[option].default
    )
    return tuple(dict.fromkeys((*entries, *named)))


def values_stated(guide: Callable[..., Any]) -> list[tuple[str, str, Any]]:
    """(option, entry, value) of each value that a guidance function states of an entry.

    Options are those of `needs_condition`, where they are not left at their defaults;
    each item of a tuple is a value.
    """
    guide, options = _unbound(guide)
    found = []
    for option, entry in getattr(guide, "condition_options", {}).items():
        default = inspect.signature(guide).parameters[option].default
        value = options.get(option, default)
        if value != default:
            values = value if isinstance(value, (tuple, list)) else (value,)
            found += [(option, entry, one) for one in values]
    return found


def models_needed(guide: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the models that a guidance function has yet to be given."""
    guide, options = _unbound(guide)
    return tuple(
        name
        for name, field in fields_of(guide, skip=1).items()
        if is_model(field) and name not in options
    )


def is_model(field: Field) -> bool:
    """Whether an argument of a guidance function is a model, and no option.

    It has no default, and no literal of a config can be its value by its type.
    """
    is_option = field.kind is not None and is_literal(field)
    return field.default is MISSING and not is_option


def bind(guide: Callable[..., Denoise], **options: Any) -> Callable[..., Denoise]:
    """Bind options to a guidance or a threshold, and check them at once.

    The function is called with stand-ins for the denoiser and the models it needs,
    which it does not evaluate before it is evaluated itself.

    Raises: ValueError for options that the function refuses.
    """
    bound = partial(guide, **options)
    tried(bound)
    return bound


def tried(guide: Callable[..., Any]) -> Any:
    """Guide a stand-in, which is not evaluated: what the guided denoiser looks like.

    Raises: ValueError for options that the function refuses.
    """
    needed = models_needed(guide)
    return guide(_stand_in, **{n: _STAND_INS.get(n, _stand_in) for n in needed})


def _stand_in(x: Array, sigma: Scalar, cond: Any = None) -> Array:
    raise AssertionError(f"no model is evaluated at binding: {x}, {sigma}, {cond}.")


_STAND_INS = {"grid": np.asarray([1.0, 0.0])}


def _unbound(guide: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function inside `functools.partial`, and all keywords bound to it."""
    options: dict[str, Any] = {}
    while isinstance(guide, partial):
        options = {**guide.keywords, **options}
        guide = guide.func
    return guide, options
