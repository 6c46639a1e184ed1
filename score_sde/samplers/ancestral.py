"""Ancestral sampling: step down further than the grid asks, then add fresh noise."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import jax.numpy as jnp

from score_sde.fields import pytree
from score_sde.rules import NonNegative
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    Sampler,
    Step,
    is_on,
    slope,
)
from score_sde.types import Array, Scalar


def ancestral_levels(
    sigma: Array, sigma_next: Array, eta: Scalar
) -> tuple[Array, Array]:
    """Split sigma_next^2 into sigma_down^2 + sigma_up^2: return (sigma_down, sigma_up).

    sigma_up = min(sigma_next, eta sigma_next sqrt(1 - sigma_next^2 / sigma^2)); at
    eta = 1 the step has the variance of the chain's posterior (Ho et al. 2020, eq. 7).
    """
    ratio = sigma_next / sigma
    up = sigma_next * jnp.minimum(1.0, eta * jnp.sqrt((1 - ratio) * (1 + ratio)))
    return remainder(sigma_next, up), up


def remainder(whole: Array, part: Array) -> Array:
    """Compute sqrt(whole^2 - part^2), with derivative 0 where nothing remains."""
    squared = (whole - part) * (whole + part)
    some = squared > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, squared, 1.0)), 0.0)


@pytree
class Noised(Sampler):
    """A sampler that adds noise below each level: none at eta = 0, all at eta = 1.

    s_noise multiplies that noise, without being made up for.
    """

    eta: Annotated[float, NonNegative] = 1.0
    s_noise: Annotated[float, NonNegative] = 1.0

    num_draws: ClassVar[int] = 1

    @property
    def stochastic(self) -> bool:
        return is_on(self.eta)

    def noised(self, x: Array, std: Array, at: Interval, draw: Draw) -> Array:
        """Add s_noise std eps to x, eps being the first draw of the step."""
        if not self.stochastic:
            return x
        return x + self.s_noise * std * draw(0, at.sigma, at.sigma_next)


@pytree
class EulerAncestral(Noised):
    """Euler's step to sigma_down, then noise sigma_up, but none in the step to 0."""

    @property
    def is_euler(self) -> bool:
        return not self.stochastic

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        down, up = ancestral_levels(at.sigma, at.sigma_next, self.eta)
        denoised = denoise(x, at.sigma)
        x = x + (down - at.sigma) * slope(x, denoised, at.sigma)
        return Step(self.noised(x, up, at, draw), denoised, state)


def count_steps_down_twice(sigmas: Array, eta: Scalar) -> Array:
    """Count two evaluations a step, but one where it ends at sigma_down = 0."""
    down, _ = ancestral_levels(sigmas[:-1], sigmas[1:], eta)
    return len(sigmas) - 1 + (down > 0).sum()
