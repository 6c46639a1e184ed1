"""Denoising diffusion implicit models (Song, Meng and Ermon 2021)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from score_sde.fields import pytree
from score_sde.rules import Share
from score_sde.samplers.ancestral import EulerAncestral
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    Sampler,
    Step,
    is_on,
)
from score_sde.types import Array


@pytree
class DDIM(Sampler):
    """DDIM: eta = 0 follows the probability flow, eta = 1 is the DDPM chain.

    Its eq. 12 and 16: x moves along eps to the level that leaves room for noise of
    eta times the standard deviation of the chain's posterior.
    """

    eta: Annotated[float, Share] = 0.0

    num_draws: ClassVar[int] = 1

    @property
    def stochastic(self) -> bool:
        return is_on(self.eta)

    @property
    def is_euler(self) -> bool:
        return not self.stochastic

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        # In x = xt / alpha the ancestral Euler step does just this.
        return EulerAncestral(self.eta).step(denoise, x, at, draw, state)
