"""Options that guidance of a config shares: where it holds, and what it leads from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from score_sde.conditions import captions as words
from score_sde.guidance.conditional import null_condition
from score_sde.guidance.guided import Schedule, Weight, interval
from score_sde.rules import Finite, NonNegative, PositiveOrInfinite, at_least
from score_sde.types import NO_LABEL

Label = Annotated[int, at_least(NO_LABEL)]
Number = Annotated[float, Finite]
Low = Annotated[float, NonNegative]
High = Annotated[float, PositiveOrInfinite]


def between(weight: float, sigma_low: float, sigma_high: float) -> Weight:
    """The weight between two levels; the number itself if they hold all levels."""
    if (sigma_low, sigma_high) == (0.0, math.inf):
        return weight
    return between_levels(weight, sigma_low, sigma_high)


def between_levels(
    weight: float, sigma_low: float, sigma_high: float, *, outside: float = 1.0
) -> Schedule:
    """`interval`, whose error names the options of a config."""
    if sigma_low >= sigma_high:
        raise ValueError(
            f"sigma_low {sigma_low} must be below sigma_high {sigma_high}."
        )
    return interval(weight, sigma_low, sigma_high, outside=outside)


def negative_condition(label: int, caption: str) -> Callable[[Any], Any]:
    """The map to the condition to go away from: another label or caption, or none."""
    if label == NO_LABEL and not caption:
        return null_condition
    if caption:
        return with_entry("words", words.tokens(caption))
    return with_entry("label", np.asarray(label, np.int32))


def with_entry(name: str, value: np.ndarray) -> Callable[[Any], Any]:
    """The map to the condition with one entry of this value for all examples."""

    def replace_entry(cond: Any) -> Any:
        entry = jnp.asarray(cond[name])
        return cond | {
            name: jnp.broadcast_to(jnp.asarray(value, entry.dtype), entry.shape)
        }

    return replace_entry
