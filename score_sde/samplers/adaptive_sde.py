"""The reverse SDE with step sizes chosen for each example (Jolicoeur-Martineau 2021).

In s = log(sigma_0 / sigma) and x = xt / alpha the reverse SDE of every SDE is
dx = 2 (D - x) ds + sqrt(2) sigma dW.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.arrays import expand_like, mean_over_data
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    Sampler,
    SampleResult,
    Step,
)
from score_sde.types import Array, pytree, require, static


class _Progress(NamedTuple):
    """Where each example is. All but x, before and number are [batch]."""

    x: Array
    before: Array
    """The Euler step that was last accepted: a scale for the error."""
    left: Array
    """Log sigma that is left to pass."""
    h: Array
    """The next step."""
    finite: Array
    number: Array
    """Attempts so far, the same for all."""


@pytree
class AdaptiveSDE(Sampler):
    """Steps of Euler-Maruyama and improved Euler, whose difference is the error.

    Both use one draw and together two evaluations. With x' the first and x'' the mean
    of both, the error is the root mean square of (x' - x'') / max(atol, rtol |x'|),
    with the larger of |x'| now and at the last accepted step. Below 1, x'' is accepted;
    the next step is h <- safety h error^(-exponent). A rejected step is drawn anew, as
    published, which favours small noise a little.

    Only the ends of the grid count; if the last level is 0, the step to it is D. Each
    example has steps of its own, and the loop ends with the slowest: on many devices,
    map it over them with `jax.shard_map`, so that none waits for another. Loops
    that end so have no reverse-mode gradient, and there is no path on the grid.

    Args:
        atol: absolute tolerance; published for data in [-1, 1], one of 256 levels.
        max_steps: attempts, after which examples that have not arrived have failed.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    safety: float = 0.9
    exponent: float = 0.9
    max_steps: int = static(default=10_000)

    def __post_init__(self) -> None:
        require(
            self,
            ("0 <= rtol", lambda s: 0 <= s.rtol < math.inf),
            ("0 < atol", lambda s: 0 < s.atol < math.inf),
            ("0 < safety < 1", lambda s: 0 < s.safety < 1),
            ("0 < exponent", lambda s: 0 < s.exponent < math.inf),
            ("1 <= max_steps", lambda s: s.max_steps >= 1),
        )

    @property
    def num_draws(self) -> int:
        return self.max_steps

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        raise NotImplementedError("an adaptive sampler has no steps on a grid")

    def num_evals(self, sigmas: Array) -> None:
        """None: it depends on the examples."""
        del sigmas

    def run(
        self,
        denoise: Model,
        x: Array,
        sigmas: Array,
        draw: Draw,
        *,
        return_path: bool,
    ) -> SampleResult:
        """A while loop from the first level to the last above 0.

        Raises: ValueError for return_path.
        """
        if return_path:
            raise ValueError("AdaptiveSDE has no path: it takes steps of its own.")
        end = jnp.where(sigmas[-1] > 0, sigmas[-1], sigmas[-2])
        left = jnp.full(x.shape[0], jnp.log(sigmas[0] / end))
        start = _Progress(
            x, x, left, left / 100, jnp.isfinite(mean_over_data(x)), jnp.asarray(0)
        )

        def underway(now: _Progress) -> Array:
            active = (now.left > 0) & now.finite
            return active.any() & (now.number < self.max_steps)

        last = jax.lax.while_loop(
            underway, lambda now: self._attempt(denoise, draw, end, now), start
        )
        denoised = jax.lax.cond(
            sigmas[-1] > 0, lambda: last.x, lambda: denoise(last.x, end)
        )
        num_evals = 2 * last.number + (sigmas[-1] == 0)
        success = (last.left == 0) & last.finite
        return SampleResult(denoised, num_evals, success=success)

    def _attempt(
        self, denoise: Model, draw: Draw, end: Array, now: _Progress
    ) -> _Progress:
        h, x = expand_like(now.h, now.x), now.x
        sigma, sigma_next = end * jnp.exp(now.left), end * jnp.exp(now.left - now.h)
        noise = jnp.sqrt(2 * h) * draw(now.number, sigma, sigma_next)
        euler = x + 2 * h * (denoise(x, sigma) - x) + expand_like(sigma, x) * noise
        second = x + 2 * h * (denoise(euler, sigma_next) - euler)
        improved = 0.5 * (euler + second + expand_like(sigma_next, x) * noise)

        size = jnp.maximum(jnp.abs(euler), jnp.abs(now.before))
        tolerance = jnp.maximum(self.atol, self.rtol * size)
        error = jnp.sqrt(mean_over_data(((euler - improved) / tolerance) ** 2))
        accepted = (error <= 1) & (now.left > 0)
        left = jnp.where(accepted, now.left - now.h, now.left)
        moved = expand_like(accepted, x).astype(bool)
        return _Progress(
            x=jnp.where(moved, improved, x),
            before=jnp.where(moved, euler, now.before),
            left=left,
            h=jnp.minimum(left, self.safety * now.h * error**-self.exponent),
            finite=now.finite & (jnp.isfinite(error) | (now.left == 0)),
            number=now.number + 1,
        )
