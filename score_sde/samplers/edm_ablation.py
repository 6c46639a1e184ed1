"""Heun's and other methods in the time and the scale of any SDE.

The flow in xt = alpha(t) x, where Karras et al. (2022, eq. 4) have s for alpha, is

    dxt/dt = f(t) xt + alpha sigma'(t) (x - D(x, sigma)) / sigma

All SDEs have one flow, but its steps differ: the paper's table 2 compares them.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from score_sde.fields import pytree, static
from score_sde.rules import Positive, within
from score_sde.samplers.edm import Churn
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    Step,
    count_steps_twice,
    slope,
)
from score_sde.sde import EDM, SDE
from score_sde.types import Array


@pytree
class EDMAblation(Churn):
    """Steps of order 1 or 2 in the variables of an SDE; the last, to 0, is Euler's.

    Args:
        sde: its times must reach the levels of the grid, and alpha(0) be 1. A config
            has the SDE of the experiment here.
        order: 1 is Euler's method; 2 evaluates once more, a fraction `alpha` of the
            step ahead: 1 Heun's, 2/3 Ralston's, 1/2 the midpoint rule (alg. 3).
    """

    sde: SDE = EDM()
    order: Annotated[int, within(1, 2)] = static(default=2)
    alpha: Annotated[float, Positive] = 1.0

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        x, sigma = self.churned(x, at, draw)
        t, t_next = self.time(sigma), self.time(at.sigma_next)
        dt = t_next - t
        denoised = denoise(x, sigma)
        xt = self.sde.alpha(t) * x
        first = self.drift(xt, denoised, t)

        def corrected() -> Array:
            ahead, there = xt + self.alpha * dt * first, t + self.alpha * dt
            scaled = ahead / self.sde.alpha(there)
            second = self.drift(ahead, denoise(scaled, self.sde.sigma(there)), there)
            weight = 1 / (2 * self.alpha)
            return xt + dt * ((1 - weight) * first + weight * second)

        euler = xt + dt * first
        if self.order == 2:
            xt = jax.lax.cond(at.sigma_next > 0, corrected, lambda: euler)
        else:
            xt = euler
        return Step(xt / self.sde.alpha(t_next), denoised, state)

    def time(self, sigma: Array) -> Array:
        """Time of a noise level; 0 for level 0, before t_min."""
        return jnp.where(sigma > 0, self.sde.t_from_sigma(sigma), jnp.zeros_like(sigma))

    def drift(self, xt: Array, denoised: Array, t: Array) -> Array:
        """Drift dxt/dt of the probability flow."""
        sigma, rate = jax.jvp(self.sde.sigma, (t,), (jnp.ones_like(t),))
        alpha = self.sde.alpha(t)
        flow = rate * slope(xt / alpha, denoised, sigma)
        return self.sde.drift_rate(t) * xt + alpha * flow

    def num_evals(self, sigmas: Array) -> Array:
        return (
            count_steps_twice(sigmas) if self.order == 2 else super().num_evals(sigmas)
        )
