"""PLMS: the linear multistep method of PNDM (Liu et al. 2022)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.fields import pytree
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step, slope
from score_sde.types import Array

# Weights of Adams and Bashforth for even steps, the newest prediction first.
ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@pytree
class PLMS(Sampler):
    """PLMS: DDIM steps with a mean of the last four predictions of the noise.

    The means are those of Adams and Bashforth for even steps, whatever the grid, so
    that it is of high order only on grids that are nearly even in sigma. The first step
    is Heun's, of two evaluations, if it doesn't end at sigma = 0.
    """

    def init(self, x: Array) -> Any:
        return (jnp.zeros_like(x),) * 3

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        del draw
        denoised = denoise(x, at.sigma)
        eps = slope(x, denoised, at.sigma)
        values = (eps, *state)
        d_sigma = at.sigma_next - at.sigma

        def heun() -> Array:
            euler = x + d_sigma * eps
            second = slope(euler, denoise(euler, at.sigma_next), at.sigma_next)
            return 0.5 * (eps + second)

        def adams_bashforth(weights: tuple[float, ...]) -> Array:
            mean = jnp.zeros_like(x)
            for weight, value in zip(weights, values, strict=False):
                mean = mean + weight * value
            return mean

        branches = [
            lambda: eps,
            heun,
            *(lambda w=weights: adams_bashforth(w) for weights in ADAMS_BASHFORTH),
        ]
        known = jnp.minimum(at.number + 1, 4)
        to_zero_at_once = (at.number == 0) & (at.sigma_next == 0)
        mean = jax.lax.switch(jnp.where(to_zero_at_once, 0, known), branches)
        return Step(x + d_sigma * mean, denoised, values[:3])

    def num_evals(self, sigmas: Array) -> Array:
        return len(sigmas) - 1 + (sigmas[1] > 0).astype(int)
