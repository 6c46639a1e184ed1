"""Levels that suit one model and one sampler, by gradient descent.

No fixed grid is best for every model. The levels of a grid are moved so that, from the
same noise, a deterministic sampler ends nearer to where the probability flow does: the
distance is differentiated with respect to the levels, through the sampler (Tong et al.
2025, 'LD3'). Between sigma_max, which stays, and sigma_low the logarithm of sigma is
divided into gaps; a softmax keeps them positive, so that every grid decreases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_sde.runtime.progress import with_bar
from score_sde.types import Array

Distance = Callable[[Array], Array]
"""(grid of levels, [num_steps + 1]) -> a scalar, differentiable, to be made small."""
SMALLEST_GAP = 1e-3
"""The smallest gap to begin with, as a share of all: one of 0 could never grow."""


class Tuned(NamedTuple):
    """A grid that was tuned, and the way there."""

    sigmas: Array
    """[num_steps + 1], the last level 0."""
    distance: float
    start: str
    """Name of the grid that was begun with."""
    starts: dict[str, float]
    """Name -> distance of every grid that was tried before."""


def tuned_levels(
    distance: Distance,
    starts: Mapping[str, Array],
    *,
    sigma_low: float,
    num_updates: int = 60,
    learning_rate: float = 0.05,
) -> Tuned:
    """Move the levels of the best of some grids until the distance falls no further.

    The result is the best grid seen, so that it is never worse than any of `starts`.

    Args:
        distance: of a grid; where it is not finite, a grid counts as the worst.
        starts: name -> grid, [num_steps + 1], with the same first level and the last
            one 0.
        sigma_low: no level above 0 goes below it.
        num_updates: steps of Adam.
        learning_rate: of Adam, on the logits of the gaps, falling to 0 as a cosine.

    Raises:
        ValueError: if no grid has a finite distance.
    """
    measure = jax.jit(distance)
    found = {name: float(measure(sigmas)) for name, sigmas in starts.items()}
    usable = {name: d for name, d in found.items() if np.isfinite(d)}
    if not usable:
        raise ValueError(f"no grid leads to finite samples: {found}.")
    start = min(usable, key=lambda name: usable[name])
    best, least = starts[start], usable[start]

    first = jnp.log(best[0])
    whole = first - jnp.log(jnp.asarray(sigma_low, best.dtype))

    def grid(logits: Array) -> Array:
        passed = whole * jnp.cumsum(jax.nn.softmax(logits))[:-1]
        inner = jnp.exp(first - passed)
        return jnp.concatenate([best[:1], inner, jnp.zeros_like(best[:1])])

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_updates))

    @jax.jit
    def update(logits: Array, state: optax.OptState) -> tuple[Array, Array, Array, Any]:
        sigmas = grid(logits)
        value, pull = jax.value_and_grad(lambda q: distance(grid(q)))(logits)
        moves, state = optimizer.update(jnp.nan_to_num(pull), state)
        return sigmas, value, logits + moves, state

    logits = _logits(best, whole)
    state = optimizer.init(logits)
    for _ in with_bar("tuning levels", range(num_updates)):
        sigmas, value, logits, state = update(logits, state)
        if float(value) < least:
            best, least = sigmas, float(value)
    return Tuned(best, least, start, found)


def _logits(sigmas: Array, whole: Array) -> Array:
    """Logits of the gaps of a grid, those too small to grow a little larger."""
    inner = jnp.log(sigmas[:-1])
    gaps = jnp.append(-jnp.diff(inner), whole - (inner[0] - inner[-1])) / whole
    return jnp.log(jnp.maximum(gaps, SMALLEST_GAP))
