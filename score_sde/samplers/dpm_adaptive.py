"""DPM-Solver-12 and -23: step sizes from the difference of two orders."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.arrays import expand_like, flat, mean_over_data, where_example
from score_sde.fields import pytree, static
from score_sde.integrate import MAX_STEPS
from score_sde.rules import Finite, NonNegative, Positive, within
from score_sde.samplers.ancestral import Noised
from score_sde.samplers.dpm_fast import levels_above, positive_ends
from score_sde.samplers.noise_steps import (
    first_order,
    noise_at,
    noise_of,
    second_order,
    third_order,
)
from score_sde.samplers.steps import Draw, Model, SampleResult
from score_sde.types import Array


class Control(NamedTuple):
    """Memory of the step-size controller, [batch] each."""

    h: Array
    """The next step, in log sigma."""
    inverse: Array
    """1 / error of the last accepted step."""
    inverse_before: Array
    """1 / error of the accepted step before."""
    started: Array
    """True once there was an error."""


class Progress(NamedTuple):
    """Progress of each example; all but x and low are [batch]."""

    x: Array
    low: Array
    """The lower order's x at the last accepted step; it scales the tolerance."""
    log_sigma: Array
    control: Control
    accepted: Array
    rejected: Array


@pytree
class DPMAdaptive(Noised):
    """DPM-Solver-12 or -23, each example with steps of its own.

    The error of a step of order 2 (3) is the root mean square over the example of the
    difference to order 1 (2), in units of max(atol, rtol |x|) (Lu et al. 2022, arXiv
    2206.00927, app. C). A step size is multiplied by 1 + atan(f - 1), where
    f = e0^b0 e1^b1 e2^b2 of the inverse errors of now and of the last two accepted
    steps, b = (p + i + d, -(p + 2 d), d) / order; a step with a factor below
    accept_safety is taken back.

    Only the ends of the grid matter. It stops at the last level above 0, without a last
    denoising. Evaluations, steps and success are reported per example; the loop
    ends with the slowest. `jax.shard_map` keeps devices from waiting for each other.
    Published code has one step size for the whole batch: give it as one example,
    [1, batch, *dims], to have that.

    Differentiable in forward mode, the steps held where they are. With eta > 0 a step
    goes further down and adds noise; a step that is taken back draws none.

    Args:
        order: 2 or 3.
        rtol: relative tolerance.
        atol: absolute tolerance.
        h_init: the first step, in log sigma.
        pcoeff: p, the proportional gain.
        icoeff: i, the integral gain.
        dcoeff: d, the derivative gain.
        accept_safety: the factor from which a step is accepted.
    """

    eta: Annotated[float, NonNegative] = 0.0
    order: Annotated[int, within(2, 3)] = static(default=3)
    rtol: Annotated[float, NonNegative] = 0.05
    atol: Annotated[float, Positive] = 0.0078
    h_init: Annotated[float, Positive] = 0.05
    pcoeff: Annotated[float, Finite] = 0.0
    icoeff: Annotated[float, Finite] = 1.0
    dcoeff: Annotated[float, Finite] = 0.0
    accept_safety: Annotated[float, Positive] = 0.81

    # Near enough to the end, in log sigma.
    margin: ClassVar[float] = 1e-5

    def num_evals(self, sigmas: Array) -> Array:
        del sigmas
        raise ValueError(
            "dpm_adaptive takes as many evaluations as each example needs; `sample` "
            "reports them."
        )

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
                "dpm_adaptive has no path: every example takes steps of its own."
            )
        sigma_max, sigma_min = positive_ends(sigmas)
        end = jnp.log(sigma_min)
        batch = x.shape[:1]

        def unfinished(now: Progress) -> Array:
            # A step size that is not finite never reaches the end.
            attempts = now.accepted + now.rejected
            going = (now.log_sigma > end + self.margin) & (attempts < MAX_STEPS)
            return going & jnp.isfinite(now.control.h)

        def attempt(now: Progress) -> Progress:
            return self.attempted(denoise, draw, end, now, unfinished(now))

        start = Progress(
            x=x,
            low=x,
            log_sigma=jnp.broadcast_to(jnp.log(sigma_max), batch),
            control=self.controller(batch, x.dtype),
            accepted=jnp.zeros(batch, jnp.int32),
            rejected=jnp.zeros(batch, jnp.int32),
        )
        last = jax.lax.while_loop(lambda now: unfinished(now).any(), attempt, start)
        finite = jnp.isfinite(flat(last.x)).all(1)
        success = finite & (last.log_sigma <= end + self.margin)
        return SampleResult(
            where_example(success, last.x, jnp.nan),
            num_evals=self.order * (last.accepted + last.rejected),
            num_accepted=last.accepted,
            num_rejected=last.rejected,
            success=success,
        )

    def attempted(
        self, denoise: Model, draw: Draw, end: Array, now: Progress, going: Array
    ) -> Progress:
        """Make one more attempt by the examples that are going, [batch]."""
        log_next = jnp.maximum(end, now.log_sigma - now.control.h)
        sigma, sigma_next = jnp.exp(now.log_sigma), jnp.exp(log_next)
        down, up = levels_above(sigma, sigma_next, self.eta, jnp.exp(end))
        low, high = self.pair(denoise, now.x, sigma, down)
        size = jnp.maximum(jnp.abs(low), jnp.abs(now.low))
        scaled = (low - high) / jnp.maximum(self.atol, self.rtol * size)
        # The steps are no function of x: a root has no derivative at an error of 0.
        error = jnp.sqrt(mean_over_data(jax.lax.stop_gradient(scaled) ** 2))
        accept, control = self.propose(now.control, error)
        if self.stochastic:
            noise = draw(now.accepted, sigma, sigma_next)
            high = high + expand_like(self.s_noise * up, now.x) * noise
        took = going & accept
        return Progress(
            x=where_example(took, high, now.x),
            low=where_example(took, low, now.low),
            log_sigma=jnp.where(took, log_next, now.log_sigma),
            control=jax.tree.map(
                lambda new, old: jnp.where(going, new, old), control, now.control
            ),
            accepted=jnp.where(took, now.accepted + 1, now.accepted),
            rejected=jnp.where(going & ~accept, now.rejected + 1, now.rejected),
        )

    def pair(
        self, denoise: Model, x: Array, sigma: Array, target: Array
    ) -> tuple[Array, Array]:
        """Carry x to the target, by the lower and by the higher order."""
        eps = noise_of(x, denoise(x, sigma), sigma)
        r = 1 / self.order
        eps_r = noise_at(denoise, x, eps, sigma, target, r)
        second = second_order(x, eps, eps_r, sigma, target, r)
        if self.order == 2:
            return first_order(x, eps, sigma, target), second
        return second, third_order(denoise, x, eps, eps_r, sigma, target)

    def controller(self, batch: tuple[int, ...], dtype: Any) -> Control:
        """Make the memory of the controller before the first step."""
        one = jnp.ones(batch, dtype)
        return Control(self.h_init * one, one, one, jnp.zeros(batch, bool))

    def propose(self, control: Control, error: Array) -> tuple[Array, Control]:
        """Decide if steps of this error, [batch], are taken, and which to try next."""
        # The strong order of additive noise replaces the order of the flow.
        order = 1.5 if self.stochastic else self.order
        inverse = 1 / (error + 1e-8)
        before = jnp.where(control.started, control.inverse, inverse)
        earlier = jnp.where(control.started, control.inverse_before, inverse)
        factor = (
            inverse ** ((self.pcoeff + self.icoeff + self.dcoeff) / order)
            * before ** (-(self.pcoeff + 2 * self.dcoeff) / order)
            * earlier ** (self.dcoeff / order)
        )
        factor = 1 + jnp.arctan(factor - 1)
        accept = factor >= self.accept_safety
        return accept, Control(
            control.h * factor,
            jnp.where(accept, inverse, before),
            jnp.where(accept, before, earlier),
            jnp.ones_like(control.started),
        )
