"""The second-order method of DPM-Solver, as a midpoint rule in sigma.

The middle is the geometric one, sqrt(sigma sigma_next), halfway in log sigma (Lu et al.
2022, arXiv 2206.00927, alg. 1), where the slope dx/dsigma is taken as constant. Two
evaluations a step, but one, Euler's, in the step to sigma = 0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.fields import pytree
from score_sde.samplers.ancestral import (
    Noised,
    ancestral_levels,
    count_steps_down_twice,
)
from score_sde.samplers.edm import Churn
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    Step,
    count_steps_twice,
    slope,
)
from score_sde.types import Array


def midpoint(
    denoise: Model, x: Array, denoised: Array, sigma: Array, target: Array
) -> Array:
    """Carry x from sigma to target by the slope at the geometric middle."""
    first = slope(x, denoised, sigma)

    def by_the_middle() -> Array:
        middle = jnp.sqrt(sigma * target)
        halfway = x + (middle - sigma) * first
        second = slope(halfway, denoise(halfway, middle), middle)
        return x + (target - sigma) * second

    return jax.lax.cond(target > 0, by_the_middle, lambda: x + (target - sigma) * first)


@pytree
class DPM2(Churn):
    """DPM-Solver-2 as a midpoint rule, of second order; deterministic but for churn."""

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        x, sigma = self.churned(x, at, draw)
        denoised = denoise(x, sigma)
        x = midpoint(denoise, x, denoised, sigma, at.sigma_next)
        return Step(x, denoised, state)

    def num_evals(self, sigmas: Array) -> Array:
        return count_steps_twice(sigmas)


@pytree
class DPM2Ancestral(Noised):
    """DPM-Solver-2 to sigma_down, then noise sigma_up.

    Noise is added after every step above sigma = 0; k-diffusion leaves it out where
    eta > 1 takes sigma_down to 0, and its samples are short of that variance.
    """

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        down, up = ancestral_levels(at.sigma, at.sigma_next, self.eta)
        denoised = denoise(x, at.sigma)
        x = midpoint(denoise, x, denoised, at.sigma, down)
        return Step(self.noised(x, up, at, draw), denoised, state)

    def num_evals(self, sigmas: Array) -> Array:
        return count_steps_down_twice(sigmas, self.eta)
