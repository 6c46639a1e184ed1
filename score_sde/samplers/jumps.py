"""Samplers of few-step models, which jump from a noise level to a distant one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import jax.numpy as jnp

from score_sde.fields import pytree
from score_sde.flow_map import check_jumps
from score_sde.rules import NonNegative
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step
from score_sde.types import Array


@pytree
class JumpSampler(Sampler):
    """Fold the flow map over the grid, one evaluation a step, without noise.

    x at the next level is x + (sigma_next/sigma - 1)(x - G(x, sigma, sigma_next)), see
    `flow_map`. With a plain denoiser it is DDIM.
    """

    jumps: ClassVar[bool] = True

    def check_model(self, model: Any, sigmas: Any) -> None:
        check_jumps(model, sigmas)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        del draw
        target = denoise(x, at.sigma, at.sigma_next)
        moved = x + (at.sigma_next / at.sigma - 1) * (x - target)
        return Step(moved, target, state)


@pytree
class Consistency(Sampler):
    """Jump to level 0 and go back up by fresh noise, over and over (Song 2023, alg. 1).

    x0 = G(x, sigma, 0), then x = x0 + sqrt(sigma_next^2 - sigma_min^2) eps.

    Args:
        sigma_min: the noise that is left in x0, of models whose flow ends there.
    """

    sigma_min: Annotated[float, NonNegative] = 0.0

    jumps: ClassVar[bool] = True
    num_draws: ClassVar[int] = 1

    @property
    def follows_path(self) -> bool:
        return False  # the noise of each level begins anew at 0

    def check_model(self, model: Any, sigmas: Any) -> None:
        check_jumps(model, sigmas, to_zero=True)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        x0 = denoise(x, at.sigma, jnp.zeros_like(at.sigma))
        kept = jnp.maximum(at.sigma_next**2 - self.sigma_min**2, 0)
        eps = draw(0, at.sigma, at.sigma_next)
        return Step(x0 + jnp.sqrt(kept) * eps, x0, state)
