"""Resampling: every stretch of the reverse chain is gone down several times over."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.fields import pytree, static
from score_sde.rules import at_least
from score_sde.samplers.ancestral import ancestral_levels, remainder
from score_sde.samplers.steps import Draw, Model, Sampler, SampleResult, slope
from score_sde.types import Array


@pytree
class RePaint(Sampler):
    """RePaint: down by ancestral steps and up again by noise, over and over.

    Every stretch of jump_length levels is gone down `repeats` times. With a denoiser
    whose known pixels were put in (`editing.replace`), what is drawn gets to know what
    is given (Lugmayr et al. 2022, alg. 1 and app. B). With any other it is an ancestral
    sampler that takes longer. It needs noise that is independent from draw to draw, no
    Brownian path.

    The stretches are counted from the end of the grid, as theirs are; here the first is
    repeated too, be it a whole one or what is left, and the last goes up from the
    result itself.

    Args:
        repeats: how often a stretch is gone down.
        jump_length: levels to a stretch.
    """

    repeats: Annotated[int, at_least(1)] = static(default=10)
    jump_length: Annotated[int, at_least(1)] = static(default=1)

    @property
    def num_draws(self) -> int:
        return 2 * self.repeats

    @property
    def follows_path(self) -> bool:
        return False

    def draws_needed(self, num_steps: int, *, to_zero: bool) -> int:
        # Up and down at every step, but not up before the first.
        return 2 * self.repeats * num_steps - 1 - to_zero

    def run(
        self,
        denoise: Model,
        x: Array,
        sigmas: Array,
        draw: Draw,
        *,
        return_path: bool,
    ) -> SampleResult:
        steps = self.order(len(sigmas) - 1)
        before = np.concatenate([[0], steps[:-1] + 1])  # the level where x is

        def body(x: Array, move: tuple[Array, ...]) -> Any:
            k, at, step = move
            sigma, below = sigmas[step], sigmas[step + 1]
            # Where a stretch begins anew, x is below it; elsewhere this is no noise.
            up = remainder(sigma, sigmas[at])
            x = x + up * draw(jnp.maximum(2 * k - 1, 0), sigma, sigmas[at])
            denoised = denoise(x, sigma)
            level, noise = ancestral_levels(sigma, below, 1.0)
            x = x + (level - sigma) * slope(x, denoised, sigma)
            x = x + noise * draw(2 * k, sigma, below)
            return x, (x, denoised) if return_path else None

        number = np.arange(len(steps))
        moves = tuple(map(jnp.asarray, (number, before, steps)))
        last, kept = jax.lax.scan(body, x, moves)
        if kept is None:
            return SampleResult(last, self.num_evals(sigmas))
        # The last time that each step was taken.
        times = [number[steps == step][-1] for step in range(len(sigmas) - 1)]
        path, denoised = (a[np.asarray(times)] for a in kept)
        path = jnp.concatenate([x[None], path])
        return SampleResult(last, self.num_evals(sigmas), path, denoised)

    def order(self, num_steps: int) -> np.ndarray:
        """List the steps of the grid in the order in which they are taken."""
        ends = range(num_steps, 0, -self.jump_length)
        stretches = [range(max(0, end - self.jump_length), end) for end in ends]
        return np.concatenate([[*s] * self.repeats for s in reversed(stretches)])

    def num_evals(self, sigmas: Array) -> Array:
        return jnp.asarray(self.repeats * (len(sigmas) - 1))
