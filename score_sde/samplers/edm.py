"""The deterministic and stochastic samplers of Karras et al. 2022 (alg. 1 and 2)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from score_sde.fields import pytree, require
from score_sde.rules import NonNegative, PositiveOrInfinite
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    Sampler,
    Step,
    count_steps_twice,
    is_on,
    slope,
)
from score_sde.types import Array


@pytree
class Churn(Sampler):
    """Churn: noise before each step that takes sigma up to sigma (1 + gamma).

    gamma = min(s_churn / num_steps, sqrt(2) - 1) where s_tmin <= sigma <= s_tmax,
    else 0.

    Args:
        s_churn: how much noise over all steps; 0 for none.
        s_tmin: no noise below this level.
        s_tmax: no noise above this level.
        s_noise: inflates the added noise.

    Source: Karras et al. 2022, alg. 2.
    """

    s_churn: Annotated[float, NonNegative] = 0.0
    s_tmin: Annotated[float, NonNegative] = 0.0
    s_tmax: Annotated[float, PositiveOrInfinite] = math.inf
    s_noise: Annotated[float, NonNegative] = 1.0

    num_draws: ClassVar[int] = 1

    def draws_needed(self, num_steps: int, *, to_zero: bool) -> int:
        del to_zero  # noise is added before a step, the last one too
        return num_steps

    def __post_init__(self) -> None:
        require(self, ("s_tmin <= s_tmax", lambda c: c.s_tmin <= c.s_tmax))

    @property
    def stochastic(self) -> bool:
        return is_on(self.s_churn)

    def churned(self, x: Array, at: Interval, draw: Draw) -> tuple[Array, Array]:
        """Return x and its noise level after noise was added."""
        if not self.stochastic:
            return x, at.sigma
        inside = (self.s_tmin <= at.sigma) & (at.sigma <= self.s_tmax)
        most = jnp.minimum(self.s_churn / at.num_steps, math.sqrt(2) - 1)
        gamma = jnp.where(inside, most, 0.0).astype(x.dtype)
        # sigma^2 ((1 + gamma)^2 - 1), without cancellation.
        added = at.sigma * jnp.sqrt(gamma * (2 + gamma))
        noise = draw(0, at.sigma, at.sigma_next)
        return x + self.s_noise * added * noise, at.sigma * (1 + gamma)


@pytree
class Euler(Churn):
    """Euler's method, one evaluation a step: DDIM at eta = 0 (Song et al. 2020)."""

    @property
    def is_euler(self) -> bool:
        return not self.stochastic

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        x, sigma = self.churned(x, at, draw)
        denoised = denoise(x, sigma)
        d_sigma = at.sigma_next - sigma
        return Step(x + d_sigma * slope(x, denoised, sigma), denoised, state)


@pytree
class Heun(Churn):
    """Heun's method, two evaluations a step; the step to sigma = 0 is Euler's.

    It is alg. 1 of Karras et al. 2022 with the defaults, and alg. 2 with s_churn > 0.
    """

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        x, sigma = self.churned(x, at, draw)
        d_sigma = at.sigma_next - sigma
        denoised = denoise(x, sigma)
        first = slope(x, denoised, sigma)
        euler = x + d_sigma * first

        def corrected() -> Array:
            second = slope(euler, denoise(euler, at.sigma_next), at.sigma_next)
            return x + d_sigma * 0.5 * (first + second)

        x = jax.lax.cond(at.sigma_next > 0, corrected, lambda: euler)
        return Step(x, denoised, state)

    def num_evals(self, sigmas: Array) -> Array:
        return count_steps_twice(sigmas)


@pytree
class EDMStochastic(Heun):
    """Heun's method with the churn of ImageNet-64 (Karras et al. 2022, table 5).

    Other data need other churn: the paper's CIFAR-10 models need none.
    """

    s_churn: Annotated[float, NonNegative] = 40.0
    s_tmin: Annotated[float, NonNegative] = 0.05
    s_tmax: Annotated[float, PositiveOrInfinite] = 50.0
    s_noise: Annotated[float, NonNegative] = 1.003
