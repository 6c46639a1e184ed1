"""Langevin dynamics at one noise level (Song and Ermon 2019; Song et al. 2021, app. G).

    x <- x + e score(x, sigma) + sqrt(2 e) z,  score = (D - x) / sigma^2

In x = xt / alpha the step size e is that of xt over alpha^2, and the rules below are
those of every SDE but for the factor `scale` of a discrete chain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from score_sde.arrays import expand_like, sum_over_data
from score_sde.fields import pytree, static
from score_sde.rules import Positive, at_least, one_of
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step
from score_sde.types import Array, Scalar

StepSize = Callable[[Array, Array, Scalar, Scalar], Array]
"""(score, z, sigma, snr) -> e, a scalar or [batch]."""


def by_norms(score: Array, z: Array, sigma: Scalar, snr: Scalar) -> Array:
    """Step size 2 (snr |z| / |score|)^2, for each example by itself.

    Song et al. 2021, alg. 4 and 5, average the norms over the batch, which makes a
    sample depend on those drawn beside it. Both are for data of many dimensions: a step
    that depends on its own noise doesn't keep the law, and in two dimensions the
    proportions of a mixture were off by 0.04 (measured; by_level: below 0.01).
    """
    del sigma
    return 2 * snr**2 * sum_over_data(z**2) / sum_over_data(score**2)


def by_level(score: Array, z: Array, sigma: Scalar, snr: Scalar) -> Array:
    """Step size 2 (snr sigma)^2: annealed Langevin dynamics.

    The step of Song and Ermon 2019, alg. 1, is written alpha_i / 2, and snr is
    sqrt(epsilon) / (2 sigma_L).
    """
    del score, z
    return jnp.asarray(2 * (snr * sigma) ** 2)


STEP_SIZES: dict[str, StepSize] = {"langevin": by_norms, "ald": by_level}


def langevin_step(
    x: Array,
    denoised: Array,
    z: Array,
    *,
    sigma: Scalar,
    snr: Scalar,
    step_size: StepSize,
    scale: Scalar = 1.0,
) -> tuple[Array, Array]:
    """Make one Langevin step at level sigma, of size scale * e.

    Args:
        x: [batch, *dims], at level sigma.
        denoised: the prediction of x0 at x.
        z: standard normal noise, shaped like x.
        sigma: a scalar or [batch].
        snr: signal-to-noise ratio of the step.
        step_size: the rule for e.
        scale: multiplies e.

    Returns:
        x after the step, and its mean.
    """
    score = (denoised - x) / expand_like(sigma, x) ** 2
    e = expand_like(scale * step_size(score, z, sigma, snr), x)
    mean = x + e * score
    return mean + jnp.sqrt(2 * e) * z, mean


def equilibrate(
    denoise: Model,
    x: Array,
    draw: Draw,
    *,
    sigma: Array,
    snr: Scalar,
    n_steps: int,
    step_size: str,
    scale: Scalar = 1.0,
) -> tuple[Array, Array]:
    """Make n_steps Langevin steps at level sigma, of which step k takes draw k.

    Args:
        denoise: (x, sigma) -> x0.
        x: [batch, *dims], at level sigma.
        draw: standard normal noise.
        sigma: the level, a scalar.
        snr: signal-to-noise ratio of a step.
        n_steps: the number of steps.
        step_size: a name of `STEP_SIZES`.
        scale: multiplies the size of a step.

    Returns:
        x after the steps, and the first prediction of x0.
    """

    def step(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, first = carry
        denoised = denoise(x, sigma)
        z = draw(k, sigma, sigma)
        moved, _ = langevin_step(
            x,
            denoised,
            z,
            sigma=sigma,
            snr=snr,
            step_size=STEP_SIZES[step_size],
            scale=scale,
        )
        return moved, jnp.where(k == 0, denoised, first)

    return jax.lax.fori_loop(0, n_steps, step, (x, x))


@pytree
class Langevin(Sampler):
    """Langevin steps at every level of the grid below the first.

    In the step to sigma = 0 instead, x becomes D, the mean of x0: the final denoise of
    Jolicoeur-Martineau et al. 2020. Over one level, [sigma_start, sigma], it is plain
    Langevin dynamics, over a ladder the annealed one.

    Args:
        step_size: a rule of `STEP_SIZES`.
        snr: signal-to-noise ratio of a step; the smaller, the more exact and slow.
        n_steps: the number of steps at each level.
    """

    step_size: Annotated[str, one_of(STEP_SIZES)] = static(default="ald")
    snr: Annotated[float, Positive] = 0.16
    n_steps: Annotated[int, at_least(1)] = static(default=1)

    @property
    def num_draws(self) -> int:
        return self.n_steps

    @property
    def follows_path(self) -> bool:
        return False

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        def at_next_level() -> tuple[Array, Array]:
            return equilibrate(
                denoise,
                x,
                draw,
                sigma=at.sigma_next,
                snr=self.snr,
                n_steps=self.n_steps,
                step_size=self.step_size,
            )

        def to_zero() -> tuple[Array, Array]:
            denoised = denoise(x, at.sigma)
            return denoised, denoised

        x, denoised = jax.lax.cond(at.sigma_next > 0, at_next_level, to_zero)
        return Step(x, denoised, state)

    def num_evals(self, sigmas: Array) -> Array:
        above_zero = (sigmas[1:] > 0).sum()
        return self.n_steps * above_zero + len(sigmas) - 1 - above_zero
