"""The single-step methods of DPM-Solver++: two evaluations a step.

Between two levels the denoiser is taken as constant, and the flow followed exactly, in
x = D + (sigma_next / sigma) (x - D) (Lu et al. 2022, arXiv 2211.01095).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import jax

from score_sde.fields import pytree
from score_sde.rules import Rule
from score_sde.samplers.ancestral import (
    Noised,
    ancestral_levels,
    count_steps_down_twice,
)
from score_sde.samplers.exponential import between, toward
from score_sde.samplers.steps import Draw, Interval, Model, Step, count_steps_twice
from score_sde.types import Array


@pytree
class DPMpp2SAncestral(Noised):
    """DPM-Solver++(2S) to sigma_down by the middle of log sigma; then noise sigma_up.

    At eta = 0, algorithm 1 of the paper with r = 1/2.
    """

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        down, up = ancestral_levels(at.sigma, at.sigma_next, self.eta)
        denoised = denoise(x, at.sigma)

        def from_the_middle() -> Array:
            middle = between(at.sigma, down, 0.5)
            return denoise(toward(x, denoised, middle / at.sigma), middle)

        used = jax.lax.cond(down > 0, from_the_middle, lambda: denoised)
        x = toward(x, used, down / at.sigma)
        return Step(self.noised(x, up, at, draw), denoised, state)

    def num_evals(self, sigmas: Array) -> Array:
        return count_steps_down_twice(sigmas, self.eta)


@pytree
class DPMppSDE(Noised):
    """DPM-Solver++ SDE: a step to a fraction r of log sigma, then one over the whole.

    The second uses both denoised values, in proportion 1 - 1/(2 r) and 1/(2 r). Its
    noise and that of the first are of overlapping intervals: on one Brownian path, also
    when the draws are keyed, or else the samples spread too far (by a third of their
    variance at 20 steps). Given noise is used as it is.
    """

    r: Annotated[float, Rule("> 0 and <= 1", lambda r: 0 < r <= 1)] = 0.5

    num_draws: ClassVar[int] = 2

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        denoised = denoise(x, at.sigma)

        def above_zero() -> Array:
            middle = between(at.sigma, at.sigma_next, self.r)
            down, up = ancestral_levels(at.sigma, middle, self.eta)
            halfway = toward(x, denoised, down / at.sigma)
            if self.stochastic:
                halfway = halfway + self.s_noise * up * draw(0, at.sigma, middle)
            weight = 1 / (2 * self.r)
            second = denoise(halfway, middle)
            used = (1 - weight) * denoised + weight * second
            down, up = ancestral_levels(at.sigma, at.sigma_next, self.eta)
            after = toward(x, used, down / at.sigma)
            if self.stochastic:
                noise = draw(1, at.sigma, at.sigma_next, middle)
                after = after + self.s_noise * up * noise
            return after

        x = jax.lax.cond(at.sigma_next > 0, above_zero, lambda: denoised)
        return Step(x, denoised, state)

    def num_evals(self, sigmas: Array) -> Array:
        return count_steps_twice(sigmas)
