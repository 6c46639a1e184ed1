"""PLMS: the linear multistep method of PNDM (Liu et al. 2022)."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from score_sde.fields import pytree, static
from score_sde.rules import one_of
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step, slope
from score_sde.types import Array

# Weights of Adams and Bashforth for even steps, the newest prediction first.
ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


STARTS = ("heun", "runge_kutta")


@pytree
class PLMS(Sampler):
    """PLMS: DDIM steps with a mean of the last four predictions of the noise.

    The means are those of Adams and Bashforth for even steps, whatever the grid, so
    that it is of high order only on grids that are nearly even in sigma.

    Args:
        start: how the past is made: "heun", one step of two evaluations and lower
            orders after it; "runge_kutta", PNDM's: three steps of four evaluations. The
            middle of a step is that in sigma here, where PNDM's is that of the chain's
            timesteps. A step that ends at sigma = 0 is Euler's.
    """

    start: Annotated[str, one_of(STARTS)] = static(default="heun")

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

        def eps_at(x: Array, sigma: Array) -> Array:
            return slope(x, denoise(x, sigma), sigma)

        def heun() -> Array:
            return 0.5 * (eps + eps_at(x + d_sigma * eps, at.sigma_next))

        def adams_bashforth(weights: tuple[float, ...]) -> Array:
            mean = jnp.zeros_like(x)
            for weight, value in zip(weights, values, strict=False):
                mean = mean + weight * value
            return mean

        def runge_kutta() -> Array:
            middle = at.sigma + 0.5 * d_sigma
            second = eps_at(x + 0.5 * d_sigma * eps, middle)
            third = eps_at(x + 0.5 * d_sigma * second, middle)
            fourth = eps_at(x + d_sigma * third, at.sigma_next)
            return (eps + 2 * second + 2 * third + fourth) / 6

        if self.start == "runge_kutta":
            early = jnp.where(at.sigma_next == 0, 0, 1)
            which = jnp.where(at.number < 3, early, 2)
            choices = [
                lambda: eps,
                runge_kutta,
                lambda: adams_bashforth(ADAMS_BASHFORTH[-1]),
            ]
            mean = jax.lax.switch(which, choices)
            return Step(x + d_sigma * mean, denoised, values[:3])
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
        # So many steps at first, of so many evaluations more.
        many = 3 if self.start == "runge_kutta" else 1
        return len(sigmas) - 1 + many * (sigmas[1 : 1 + many] > 0).sum()
