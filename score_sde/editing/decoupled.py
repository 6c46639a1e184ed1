"""Restoration whose data step is apart from the denoiser: DAPS and RED-diff."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from score_sde.checks import known_values
from score_sde.editing.guided import require_linear
from score_sde.editing.stepwise import Restoring
from score_sde.fields import pytree
from score_sde.measurements import Measurement
from score_sde.rules import NonNegative, Positive, PositiveOrInfinite, at_least, below
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    SampleResult,
    Step,
    slope,
)
from score_sde.types import Array, Scalar


def _count(default: int) -> Any:
    return dataclasses.field(default=default, kw_only=True, metadata={"static": True})


@pytree
class DAPS(Restoring):
    """Decoupled annealing: solve to x0, draw x0 given y, noise again (Zhang 2025).

    At each level x0_hat is where the probability flow leads, by some Euler steps; x0 is
    drawn from N(x0_hat, r^2) times the likelihood of y, and all of its noise for the
    next level is fresh. With r^2 = sigma^2 sd^2 / (sigma^2 + sd^2) and one Euler step
    it is exact for Gaussian data of standard deviation sd in every direction, on any
    grid.

    Args:
        measurement: A, linear or not.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        noise_std: s, the standard deviation of the noise in y; 0 for none.
        sigma_data: sd above; inf for r = sigma, as in the paper.
        ode_steps: Euler steps to x0_hat.
        langevin_steps: steps of Langevin's dynamics that draw x0; 0 to draw it exactly,
            which needs a linear measurement whose singular values are known.
        langevin_rate: their size, in units of (1/r^2 + 1/s^2)^-1.

    Raises: ValueError for langevin_steps 0 with another measurement, and for
        langevin_steps above 0 without noise in y.
    """

    sigma_data: Annotated[float, PositiveOrInfinite] = dataclasses.field(
        default=float("inf"), kw_only=True
    )
    ode_steps: Annotated[int, at_least(1)] = _count(5)
    langevin_steps: Annotated[int, NonNegative] = _count(0)
    langevin_rate: Annotated[float, Positive] = dataclasses.field(
        default=0.1, kw_only=True
    )

    @property
    def num_draws(self) -> int:
        return 1 + (self.langevin_steps or 2)

    def draws_needed(self, num_steps: int, *, to_zero: bool) -> int:
        del to_zero  # x0 is drawn in the last step too
        return self.num_draws * num_steps

    def __post_init__(self) -> None:
        if not isinstance(self.measurement, Measurement):
            return
        noise_std = known_values(self.noise_std)
        if not self.langevin_steps:
            require_linear("daps", self.measurement, spectrum=True)
        elif noise_std is not None and (noise_std == 0).any():
            raise ValueError(
                f"daps has langevin_steps {self.langevin_steps}, whose likelihood "
                "needs a noise_std above 0."
            )

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        first, clean = self._solved(denoise, x, at.sigma)
        variance = at.sigma**2
        if not isinstance(self.sigma_data, float) or self.sigma_data != float("inf"):
            variance = variance / (1 + variance / self.sigma_data**2)

        def normal(k: Scalar) -> Array:
            # Of the level itself: the last step's draws are needed too.
            return draw(k, at.sigma, at.sigma)

        given = self._langevin if self.langevin_steps else self._exact
        x0 = given(clean, variance, normal)
        moved = x0 + at.sigma_next * normal(self.num_draws - 1)
        return Step(moved, first, state)

    def num_evals(self, sigmas: Array) -> Array:
        return jnp.asarray(self.ode_steps * (len(sigmas) - 1))

    def _solved(self, denoise: Model, x: Array, sigma: Array) -> tuple[Array, Array]:
        """The first prediction, and where Euler's steps to noise 0 lead."""
        first = denoise(x, sigma)
        if self.ode_steps == 1:
            return first, first
        # Dense towards 0, as the grids of Karras et al. 2022 are.
        shares = (jnp.arange(self.ode_steps, -1, -1) / self.ode_steps) ** 7.0
        levels = sigma * shares.astype(x.dtype)
        x = x + (levels[1] - levels[0]) * slope(x, first, levels[0])

        def euler(k: Array, x: Array) -> Array:
            d_sigma = levels[k + 1] - levels[k]
            return x + d_sigma * slope(x, denoise(x, levels[k]), levels[k])

        return first, jax.lax.fori_loop(1, self.ode_steps, euler, x)

    def _exact(self, clean: Array, variance: Array, normal: Any) -> Array:
        """Draw from N(clean, variance) given y, by perturbing and solving.

        A draw of x0 and one of the noise in y give a measurement that y should have
        been; moving x0 by what the solution makes of the difference is an exact draw.
        """

        def whitened(gram: Array) -> Array:
            some = gram > 0
            return jnp.where(some, 1 / jnp.sqrt(jnp.where(some, gram, 1.0)), 0.0)

        prior = clean + jnp.sqrt(variance) * normal(0)
        noise = self.measurement.filter(self.measurement(normal(1)), whitened)
        gap = self.gap(prior) - self.noise_std * noise
        solved = self.measurement.solve(gap, variance, self.noise_std**2)
        return prior + variance * self.measurement.transpose(solved)

    def _langevin(self, clean: Array, variance: Array, normal: Any) -> Array:
        precision = 1 / variance + 1 / self.noise_std**2
        size = self.langevin_rate / precision

        def move(k: Array, x0: Array) -> Array:
            pull = self.measurement.pull(x0, self.gap(x0)) / self.noise_std**2
            score = pull + (clean - x0) / variance
            return x0 + size * score + jnp.sqrt(2 * size) * normal(k)

        return jax.lax.fori_loop(0, self.langevin_steps, move, clean)


@pytree
class REDDiff(Restoring):
    """Regularisation by denoising diffusion (Mardani et al. 2024, alg. 1).

    One picture mu, rather than a sample, goes down |y - A mu|^2 / 2 and, at falling
    levels with fresh noise, strength (mu - D(mu + sigma z))^2 / 2, by Adam: it seeks a
    mode, so that its spread says nothing of the posterior's. Noise in y is weighed by
    `strength`, which grows with its variance in the paper's bound.

    Args:
        measurement: A, linear or not.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        noise_std: not used.
        strength: lambda, how much the prior counts; the paper's is 0.25.
        rate: the learning rate of Adam, whose averages forget by 0.9 and 0.99.
        momentum: Adam's first number.
    """

    strength: Annotated[float, Positive] = dataclasses.field(default=0.25, kw_only=True)
    rate: Annotated[float, Positive] = dataclasses.field(default=0.1, kw_only=True)
    momentum: Annotated[float, below(1)] = dataclasses.field(default=0.9, kw_only=True)

    def draws_needed(self, num_steps: int, *, to_zero: bool) -> int:
        del to_zero
        return num_steps

    def init(self, x: Array) -> Any:
        return jnp.zeros_like(x), jnp.zeros_like(x)

    def run(
        self,
        denoise: Model,
        x: Array,
        sigmas: Array,
        draw: Draw,
        *,
        return_path: bool,
    ) -> SampleResult:
        """Start from the origin moved to y, or else from it with noise of unit size."""
        begun = self.begun(x)
        if self.measurement.is_linear:
            start = begun + self.measurement.pseudo_inverse(self.gap(begun))
        else:
            start = begun + (x - begun) / sigmas[0]
        return super().run(denoise, start, sigmas, draw, return_path=return_path)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        denoised = denoise(x + at.sigma * draw(0, at.sigma, at.sigma), at.sigma)
        pull = self.measurement.pull(x, self.gap(x))
        gradient = self.strength * (x - denoised) - pull
        mean, square = state
        mean = self.momentum * mean + (1 - self.momentum) * gradient
        square = 0.99 * square + 0.01 * gradient**2
        count = (at.number + 1).astype(x.dtype)
        unbiased = mean / (1 - self.momentum**count)
        size = jnp.sqrt(square / (1 - 0.99**count)) + 1e-8
        return Step(x - self.rate * unbiased / size, denoised, (mean, square))
