"""The reverse SDE with step sizes chosen for each example (Jolicoeur-Martineau 2021).

In s = log(sigma_0 / sigma) and x = xt / alpha the reverse SDE of every SDE is
dx = 2 (D - x) ds + sqrt(2) sigma dW.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.arrays import expand_like, mean_over_data, where_example
from score_sde.fields import pytree, static
from score_sde.rules import NonNegative, Positive, Rule, at_least, between
from score_sde.samplers.steps import Draw, Model, Sampler, SampleResult
from score_sde.types import Array


class Progress(NamedTuple):
    """Progress of each example; all but x, euler and attempts are [batch]."""

    x: Array
    """[batch, *dims]."""
    euler: Array
    """The Euler step that was last accepted; it scales the tolerance."""
    left: Array
    """The log sigma that is left to pass."""
    h: Array
    """The next step."""
    accepted: Array
    """Steps that were taken."""
    rejected: Array
    """Steps that were taken back."""
    attempts: Array
    """Attempts so far, the same number for all examples."""


@pytree
class AdaptiveSDE(Sampler):
    """Improved Euler, with steps chosen by its difference from Euler-Maruyama.

    Both use one draw and together two evaluations. With x' the first and x'' the mean
    of both, the error is the root mean square of (x' - x'') / max(atol, rtol |x'|),
    with the larger of |x'| now and at the last accepted step. Below 1, x'' is accepted;
    the next step is h <- safety h error^(-exponent).

    What is rejected depends on the draw. Drawn anew, as published, the step that
    follows has seen half of the noise: in 64 dimensions that doesn't show, but in one
    the spread came out 1.8 times too large (rtol 0.05; measured). So a key means one
    Brownian path here, whose shorter steps are parts of the longer ones.

    Only the ends of the grid matter; a last level 0 is reached by D. Evaluations,
    steps and success are reported per example; an x that has not arrived is NaN. The
    loop ends with the slowest; `jax.shard_map` keeps devices from waiting for each
    other. Differentiable in forward mode, the steps held where they are.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance; published for data in [-1, 1], one of 256 levels.
        safety: a step is this much shorter than its error would allow.
        exponent: how fast steps follow the error.
        max_factor: by which a step grows at most (infinite as published). In one
            dimension the error vanishes at times by chance.
        max_steps: attempts, after which examples that have not arrived have failed.
    """

    rtol: Annotated[float, NonNegative] = 0.05
    atol: Annotated[float, Positive] = 0.0078
    safety: Annotated[float, between(0, 1)] = 0.9
    exponent: Annotated[float, Positive] = 0.9
    max_factor: Annotated[float, Rule("> 1 (inf is allowed)", lambda v: v > 1)] = 5.0
    max_steps: Annotated[int, at_least(1)] = static(default=10_000)

    needs_path: ClassVar[bool] = True

    def num_evals(self, sigmas: Array) -> Array:
        del sigmas
        raise ValueError(
            "adaptive_sde takes as many evaluations as each example needs; `sample` "
            "reports them."
        )

    @property
    def num_draws(self) -> int:
        return self.max_steps

    def draws_needed(self, num_steps: int, *, to_zero: bool) -> None:
        del num_steps, to_zero

    def run(
        self,
        denoise: Model,
        x: Array,
        sigmas: Array,
        draw: Draw,
        *,
        return_path: bool,
    ) -> SampleResult:
        if return_path:
            raise ValueError(
                "adaptive_sde has no path: every example takes steps of its own."
            )
        end = jnp.where(sigmas[-1] > 0, sigmas[-1], sigmas[-2])
        left = jnp.full(x.shape[0], jnp.log(sigmas[0] / end))
        none = jnp.zeros(x.shape[0], jnp.int32)
        start = Progress(x, x, left, left / 100, none, none, jnp.asarray(0))

        def unfinished(now: Progress) -> Array:
            return (now.left > 0) & jnp.isfinite(now.h)

        def attempt(now: Progress) -> Progress:
            return self.attempted(denoise, draw, end, now, unfinished(now))

        last = jax.lax.while_loop(
            lambda now: unfinished(now).any() & (now.attempts < self.max_steps),
            attempt,
            start,
        )
        to_zero = sigmas[-1] == 0
        x = jax.lax.cond(to_zero, lambda: denoise(last.x, end), lambda: last.x)
        arrived = last.left == 0
        return SampleResult(
            where_example(arrived, x, jnp.nan),
            num_evals=2 * (last.accepted + last.rejected) + to_zero.astype(jnp.int32),
            num_accepted=last.accepted,
            num_rejected=last.rejected,
            success=arrived & jnp.isfinite(mean_over_data(x)),
        )

    def attempted(
        self, denoise: Model, draw: Draw, end: Array, now: Progress, going: Array
    ) -> Progress:
        """Make one more attempt by the examples that are going."""
        x, h = now.x, expand_like(now.h, now.x)
        sigma, sigma_next = end * jnp.exp(now.left), end * jnp.exp(now.left - now.h)
        noise = jnp.sqrt(2 * h) * draw(now.attempts, sigma, sigma_next)
        euler = x + 2 * h * (denoise(x, sigma) - x) + expand_like(sigma, x) * noise
        second = x + 2 * h * (denoise(euler, sigma_next) - euler)
        improved = 0.5 * (euler + second + expand_like(sigma_next, x) * noise)

        size = jnp.maximum(jnp.abs(euler), jnp.abs(now.euler))
        scaled = (euler - improved) / jnp.maximum(self.atol, self.rtol * size)
        # The steps are no function of x: a root has no derivative at an error of 0.
        error = jnp.sqrt(mean_over_data(jax.lax.stop_gradient(scaled) ** 2))
        took = going & (error <= 1)
        left = jnp.where(took, now.left - now.h, now.left)
        factor = jnp.minimum(self.max_factor, self.safety * error**-self.exponent)
        # The path is rough: times that differ by rounding, as batches of other sizes
        # have them, are far apart on it. Steps of few digits are the same.
        factor = jax.lax.reduce_precision(factor, exponent_bits=8, mantissa_bits=3)
        h_next = jnp.minimum(left, factor * now.h)
        return Progress(
            x=where_example(took, improved, x),
            euler=where_example(took, euler, now.euler),
            left=left,
            h=jnp.where(going, h_next, now.h),
            accepted=jnp.where(took, now.accepted + 1, now.accepted),
            rejected=jnp.where(going & ~took, now.rejected + 1, now.rejected),
            attempts=now.attempts + 1,
        )
