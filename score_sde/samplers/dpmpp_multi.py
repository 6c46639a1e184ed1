"""The multistep methods of DPM-Solver++ and its SDE form: one evaluation a step.

With h = log(sigma / sigma_next) and z = (1 + eta) h, the reverse SDE whose noise is
scaled by eta^(1/2) has the solution, where the denoiser is a polynomial in log sigma,

    x_next = exp(-z) x + z phi_1(-z) D + z phi_2(-z) D' + z phi_3(-z) D'' + ...
             + sigma_next sqrt(1 - exp(-2 eta h)) eps

with D' and D'' its derivatives, per step, taken from past values; at eta = 0 the
probability flow (Lu et al. 2022, arXiv 2211.01095, sec. 4.2 and app. B). The step to
sigma = 0 ends at D.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp

from score_sde.fields import pytree, static
from score_sde.rules import one_of
from score_sde.samplers.ancestral import Noised
from score_sde.samplers.exponential import phi, toward
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step
from score_sde.types import Array, Scalar

SOLVER_TYPES = ("midpoint", "heun")

# The length of steps before the first: differences over them vanish.
ENDLESS = 1e30


def log_steps(at: Interval, count: int) -> list[Array]:
    """Lengths in log sigma of this step and of those before it, `count` in all."""
    lengths = []
    for k in range(count):
        number = jnp.maximum(at.number - k, 0)
        sigma, sigma_next = at.sigmas[number], at.sigmas[number + 1]
        # The length of the step to sigma = 0 is not used; it must be finite.
        length = jnp.log(sigma / jnp.where(sigma_next > 0, sigma_next, sigma / 2))
        lengths.append(jnp.where(k <= at.number, length, ENDLESS))
    return lengths


def noise_std(at: Interval, eta: Scalar, h: Array) -> Array:
    """Standard deviation that the reverse SDE, scaled by eta^(1/2), adds in a step."""
    return at.sigma_next * jnp.sqrt(-jnp.expm1(-2 * eta * h))


@pytree
class DPMpp2M(Sampler):
    """DPM-Solver++(2M), algorithm 2: second order; the first step is of order 1."""

    def init(self, x: Array) -> Array:
        """The denoised value of the step before."""
        return jnp.zeros_like(x)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        del draw
        denoised = denoise(x, at.sigma)
        h, h_before = log_steps(at, 2)
        middle = denoised + 0.5 * (h / h_before) * (denoised - state)
        x = toward(x, middle, at.sigma_next / at.sigma)
        return Step(jnp.where(at.sigma_next > 0, x, denoised), denoised, denoised)


@pytree
class DPMpp2MSDE(Noised):
    """SDE-DPM-Solver++(2M).

    Args:
        solver_type: "midpoint", where D' enters as at the middle of the step, or
            "heun", where it enters by phi_2.
    """

    solver_type: Annotated[str, one_of(SOLVER_TYPES)] = static(default="midpoint")

    def init(self, x: Array) -> Array:
        """The denoised value of the step before."""
        return jnp.zeros_like(x)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        denoised = denoise(x, at.sigma)
        h, h_before = log_steps(at, 2)
        z = (1 + self.eta) * h
        weight = phi(1, -z) / 2 if self.solver_type == "midpoint" else phi(2, -z)
        first = (h / h_before) * (denoised - state)
        x = toward(x, denoised, jnp.exp(-z)) + z * weight * first
        x = self.noised(x, noise_std(at, self.eta, h), at, draw)
        return Step(jnp.where(at.sigma_next > 0, x, denoised), denoised, denoised)


@pytree
class DPMpp3MSDE(Noised):
    """SDE-DPM-Solver++ with two past values; the first two steps are of order 1 and 2.

    D' is that of the parabola through three values. For D'' k-diffusion and the authors
    take its leading coefficient, half of its second derivative, and so do we: samples
    are those that the name stands for, but of second order, not third.
    """

    def init(self, x: Array) -> tuple[Array, Array]:
        """The denoised values of the last two steps, newest first."""
        return jnp.zeros_like(x), jnp.zeros_like(x)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        before, earlier = state
        denoised = denoise(x, at.sigma)
        h, h_before, h_earlier = log_steps(at, 3)
        newer = (h / h_before) * (denoised - before)
        older = (h / h_earlier) * (before - earlier)
        second = h / (h_before + h_earlier) * (newer - older)
        first = newer + (h_before / h) * second
        z = (1 + self.eta) * h
        x = toward(x, denoised, jnp.exp(-z))
        x = x + z * (phi(2, -z) * first + phi(3, -z) * second)
        x = self.noised(x, noise_std(at, self.eta, h), at, draw)
        x = jnp.where(at.sigma_next > 0, x, denoised)
        return Step(x, denoised, (denoised, before))
