"""DPM-Solver-fast: the best order for a number of evaluations."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from score_sde.arrays import is_traced
from score_sde.fields import pytree
from score_sde.rules import NonNegative
from score_sde.samplers.ancestral import Noised, ancestral_levels, remainder
from score_sde.samplers.noise_steps import (
    first_order,
    noise_at,
    noise_of,
    second_order,
    third_order,
)
from score_sde.samplers.steps import Draw, Model, SampleResult
from score_sde.types import Array, Scalar


@pytree
class DPMFast(Noised):
    """DPM-Solver-fast: steps of order 3, and one or two of lower order at the end.

    A step has as many evaluations as its order. From the grid it takes the ends and the
    number of steps, which is the number of its evaluations; its own levels are even in
    log sigma (Lu et al. 2022, arXiv 2206.00927, app. D.3). It stops at the last level
    above 0, without a last denoising. `path` and `denoised` have an entry for each of
    its own steps, about a third as many.

    With eta > 0 a step goes further down and adds noise; no noise in the last.
    """

    eta: Annotated[float, NonNegative] = 0.0

    def draws_needed(self, num_steps: int, *, to_zero: bool) -> int:
        del to_zero
        return len(orders_for(num_steps)) - 1  # the last step draws none

    def run(
        self,
        denoise: Model,
        x: Array,
        sigmas: Array,
        draw: Draw,
        *,
        return_path: bool,
    ) -> SampleResult:
        orders = orders_for(len(sigmas) - 1)
        sigma_max, sigma_min = positive_ends(sigmas)
        ends = jnp.log(jnp.stack([sigma_max, sigma_min]))
        levels = jnp.exp(jnp.linspace(ends[0], ends[1], len(orders) + 1))

        def step(x: Array, number: Scalar, order: int) -> tuple[Array, Any]:
            sigma, sigma_next = levels[number], levels[number + 1]
            down, up = levels_above(sigma, sigma_next, self.eta, levels[-1])
            denoised = denoise(x, sigma)
            eps = noise_of(x, denoised, sigma)
            after = _step_of(order, denoise, x, eps, sigma, down)
            if self.stochastic:
                after = after + self.s_noise * up * draw(number, sigma, sigma_next)
            return after, (after, denoised) if return_path else None

        thirds = orders.count(3)
        first = x
        x, kept = jax.lax.scan(lambda x, i: step(x, i, 3), x, jnp.arange(thirds))
        for number in range(thirds, len(orders)):
            x, more = step(x, number, orders[number])
            if return_path:
                kept = jax.tree.map(
                    lambda a, b: jnp.concatenate([a, b[None]]), kept, more
                )
        if kept is None:
            return SampleResult(x, self.num_evals(sigmas))
        path = jnp.concatenate([first[None], kept[0]])
        return SampleResult(x, self.num_evals(sigmas), path, kept[1])


def _step_of(
    order: int, denoise: Model, x: Array, eps: Array, sigma: Array, target: Array
) -> Array:
    """Carry x from sigma to target by a step of this order."""
    if order == 1:
        return first_order(x, eps, sigma, target)
    r = 1 / order
    eps_r = noise_at(denoise, x, eps, sigma, target, r)
    if order == 2:
        return second_order(x, eps, eps_r, sigma, target, r)
    return third_order(denoise, x, eps, eps_r, sigma, target)


def orders_for(num_evals: int) -> tuple[int, ...]:
    """Choose orders of this sum: threes, then 2, 1 (if three divides) or the rest."""
    threes, rest = divmod(num_evals, 3)
    return (3,) * threes + (rest,) if rest else (3,) * (threes - 1) + (2, 1)


def positive_ends(sigmas: Array) -> tuple[Array, Array]:
    """Return the first level and the last above 0.

    Raises: ValueError if they are one.
    """
    if len(sigmas) == 2 and not is_traced(sigmas) and sigmas[1] == 0:
        raise ValueError(f"sigmas must have two levels above 0, got {sigmas}.")
    return sigmas[0], jnp.where(sigmas[-1] > 0, sigmas[-1], sigmas[-2])


def levels_above(
    sigma: Array, sigma_next: Array, eta: Scalar, sigma_min: Array
) -> tuple[Array, Array]:
    """Split like `ancestral_levels`, but with sigma_down not below sigma_min."""
    down, _ = ancestral_levels(sigma, sigma_next, eta)
    # Nor above sigma_next, by rounding.
    down = jnp.clip(down, sigma_min, sigma_next)
    return down, remainder(sigma_next, down)
