"""Denoising diffusion implicit models (Song, Meng and Ermon 2021)."""

from __future__ import annotations

from typing import Any, ClassVar

from score_sde.samplers.ancestral import ancestral_levels
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    Sampler,
    Step,
    present,
    slope,
)
from score_sde.types import Array, pytree, require


@pytree
class DDIM(Sampler):
    """Eta = 0 follows the probability flow, eta = 1 is the DDPM chain.

    Their eq. 12 and 16: x moves along eps to the level that leaves room for noise of
    eta times the standard deviation of the chain's posterior.
    """

    eta: float = 0.0

    num_draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require(self, ("0 <= eta <= 1", lambda s: 0 <= s.eta <= 1))

    @property
    def stochastic(self) -> bool:
        return present(self.eta)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        down, up = ancestral_levels(at.sigma, at.sigma_next, self.eta)
        denoised = denoise(x, at.sigma)
        x = x + (down - at.sigma) * slope(x, denoised, at.sigma)
        if self.stochastic:
            x = x + up * draw(0, at.sigma, at.sigma_next)
        return Step(x, denoised, state)
