"""What a sampler is: a rule for one step from a noise level to the next.

All steps are taken in x = xt / alpha, whose noise has standard deviation sigma, so
that the probability flow of every SDE is dx/dsigma = (x - D(x, sigma)) / sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import jax.numpy as jnp

from score_sde.types import Array, Scalar


class Interval(NamedTuple):
    """One step of the grid, and how many the grid has."""

    sigma: Array
    sigma_next: Array
    num_steps: int


Model = Callable[[Array, Array], Array]
"""(x, sigma) -> x0, the denoiser with its condition bound."""

Draw = Callable[[int], Array]
"""k -> the k-th standard normal draw of this step, shaped like x."""


class Sampler(Protocol):
    """A step rule; its options are the fields of a frozen dataclass."""

    num_draws: ClassVar[int]
    """How many times a step may draw noise."""

    @property
    def stochastic(self) -> bool:
        """Whether any step draws noise."""
        ...

    def step(self, denoise: Model, x: Array, at: Interval, draw: Draw) -> Array:
        """X at at.sigma_next, from x at at.sigma."""
        ...

    def num_evals(self, sigmas: Array) -> Array:
        """How often the denoiser is called over a grid."""
        ...


def slope(x: Array, denoised: Array, sigma: Scalar) -> Array:
    """dx/dsigma of the probability flow."""
    return (x - denoised) / sigma


def present(value: Scalar) -> bool:
    """Whether an option is switched on; one that is traced may be."""
    return not isinstance(value, (int, float)) or value != 0


def count_steps(sigmas: Array) -> Array:
    """One evaluation per step."""
    return jnp.asarray(len(sigmas) - 1)


def count_steps_twice(sigmas: Array) -> Array:
    """Two evaluations per step, but one where the step ends at sigma = 0."""
    return len(sigmas) - 1 + (sigmas[1:] > 0).sum()
