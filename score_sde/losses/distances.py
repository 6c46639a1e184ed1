"""Distances between two predictions of the data, one value per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Float

from score_sde.arrays import mean_over_data, sum_over_data
from score_sde.fields import checks_rules
from score_sde.rules import NonNegative
from score_sde.types import Array, Points


def squared(x: Points, y: Points) -> Float[Array, " batch"]:
    """Mean over the data of (x - y)^2."""
    return mean_over_data((x - y) ** 2)


def absolute(x: Points, y: Points) -> Float[Array, " batch"]:
    """Mean over the data of |x - y|."""
    return mean_over_data(jnp.abs(x - y))


@checks_rules
def pseudo_huber(
    x: Points, y: Points, *, c: Annotated[float, NonNegative] = 0.03
) -> Float[Array, " batch"]:
    """Compute sqrt(|x - y|^2 + c^2) - c, the norm over a whole example.

    It is quadratic within c, and a norm beyond (Song and Dhariwal 2024, eq. 7), who
    take c = 0.00054 sqrt(dims). With c = 0 it is the norm itself, whose gradient is
    taken to be 0 where x = y.
    """
    total = sum_over_data((x - y) ** 2) + c**2
    # The root of 0 has no derivative.
    safe = jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, jnp.sqrt(safe), 0) - c


DISTANCES: dict[str, Callable[..., Array]] = {
    "squared": squared,
    "absolute": absolute,
    "pseudo_huber": pseudo_huber,
}
