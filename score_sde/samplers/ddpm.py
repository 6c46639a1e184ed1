"""The reverse chain of denoising diffusion (Ho et al. 2020, alg. 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Self

import jax.numpy as jnp

from score_sde.fields import pytree, require, static
from score_sde.rules import one_of
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step
from score_sde.types import Array, Scalar

Interpolation = Callable[[Array, Scalar], Array]
"""(x, sigma) -> v in [-1, 1], shaped like x."""


VARIANCES = ("fixed_small", "fixed_large", "learned")


@pytree
class DDPM(Sampler):
    """Draw from N(posterior mean given D, variance); the last step gives the mean.

    Args:
        variance: "fixed_small", the posterior's variance given x0; "fixed_large", beta
            of the step, the variance that it added to xt of a variance-preserving
            process, alpha^2 = 1 / (1 + sigma^2), whatever the SDE; "learned", between
            the two.
        learned: for "learned", (x, sigma) -> v in [-1, 1], shaped to multiply x, with
            log variance = (v + 1)/2 log large + (1 - v)/2 log small (Nichol and
            Dhariwal 2021, eq. 15). If v comes from the network that denoises, and from
            the same inputs, the compiler evaluates that network once. It may be bound
            later, by `bind(variance=...)`, where the parameters are known.

    Raises: ValueError, when drawing, for "learned" without that function.
    """

    variance: Annotated[str, one_of(VARIANCES)] = static(default="fixed_small")
    learned: Interpolation | None = static(default=None)

    num_draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require(
            self,
            (
                "a function `learned` with variance 'learned' alone",
                lambda s: s.learned is None or s.variance == "learned",
            ),
        )

    @property
    def wants(self) -> tuple[str, ...]:
        missing = self.variance == "learned" and self.learned is None
        return ("variance",) if missing else ()

    def bind(self, **offers: Any) -> Self:
        if "variance" not in self.wants or "variance" not in offers:
            return self
        return dataclasses.replace(self, learned=offers["variance"])

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        denoised = denoise(x, at.sigma)
        ratio = at.sigma_next / at.sigma
        mean = x + (1 - ratio) * (1 + ratio) * (denoised - x)
        noise = draw(0, at.sigma, at.sigma_next)
        return Step(mean + self.std(x, at) * noise, denoised, state)

    def std(self, x: Array, at: Interval) -> Array:
        """Standard deviation of the noise that a step adds to x; 0 in the last."""
        # A level that has a logarithm stands in for 0.
        last = at.sigma_next == 0
        sigma_next = jnp.where(last, 0.5 * at.sigma, at.sigma_next)
        small, large = posterior_stds(at.sigma, sigma_next)
        if self.variance == "fixed_small":
            std = small
        elif self.variance == "fixed_large":
            std = large
        else:
            if self.learned is None:
                raise ValueError(
                    "DDPM's variance 'learned' needs a function `learned`."
                )
            share = 0.5 * (self.learned(x, at.sigma) + 1)
            std = jnp.exp(share * jnp.log(large) + (1 - share) * jnp.log(small))
        return jnp.where(last, 0.0, std)


def posterior_stds(sigma: Array, sigma_next: Array) -> tuple[Array, Array]:
    """Compute standard deviations of the posterior and of beta in x, (small, large).

    small^2 = sigma_next^2 (1 - sigma_next^2 / sigma^2); large^2 = beta / alpha_next^2
    with beta = 1 - alpha^2 / alpha_next^2 and alpha^2 = 1 / (1 + sigma^2).
    """
    ratio = sigma_next / sigma
    kept = jnp.sqrt((1 - ratio) * (1 + ratio))
    one = jnp.ones_like(sigma)
    large = sigma * kept * jnp.hypot(one, sigma_next) / jnp.hypot(one, sigma)
    return sigma_next * kept, large
