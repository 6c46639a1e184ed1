"""Resampling: every step of the reverse chain is taken several times over."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.samplers.ancestral import ancestral_levels, remainder
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step, slope
from score_sde.types import Array, Scalar, pytree, require, static


@pytree
class RePaint(Sampler):
    """Down one level by an ancestral step, up again by noise, `repeats` times down.

    With a denoiser whose known pixels were put in (`editing.replace`), what is drawn
    gets to know what is given (Lugmayr et al. 2022, alg. 1, jumps of one level). With
    any other it is an ancestral sampler that takes longer. It needs noise that is
    independent from draw to draw, no Brownian path.
    """

    repeats: int = static(default=10)

    def __post_init__(self) -> None:
        require(self, ("1 <= repeats", lambda s: s.repeats >= 1))

    @property
    def num_draws(self) -> int:
        return 2 * self.repeats

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        levels = at.sigma, at.sigma_next
        below, noise_down = ancestral_levels(*levels, 1.0)
        noise_up = remainder(*levels)

        def down(x: Array, k: Scalar) -> tuple[Array, Array]:
            denoised = denoise(x, at.sigma)
            x = x + (below - at.sigma) * slope(x, denoised, at.sigma)
            return x + noise_down * draw(k, *levels), denoised

        def again(k: Array, x: Array) -> Array:
            up = x + noise_up * draw(2 * k - 1, *levels)
            return down(up, 2 * k)[0]

        x, denoised = down(x, jnp.asarray(0))
        return Step(jax.lax.fori_loop(1, self.repeats, again, x), denoised, state)

    def num_evals(self, sigmas: Array) -> Array:
        return jnp.asarray(self.repeats * (len(sigmas) - 1))
