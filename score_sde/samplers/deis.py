"""DEIS: exponential multistep integrators of the noise (Zhang and Chen 2023)."""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp

from score_sde.fields import pytree, static
from score_sde.rules import within
from score_sde.samplers.multistep import (
    advance,
    for_noise,
    interpolant,
    multistep_orders,
    of_order,
)
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step, slope
from score_sde.types import Array


@pytree
class DEIS(Sampler):
    """DEIS: eps is a polynomial of log sigma through the last levels, integrated.

    One evaluation a step. A polynomial in sigma would make it the method of Adams and
    Bashforth; this is the variant named logrho.

    Args:
        order: number of levels, 1 to 4; the first steps, which have fewer behind them,
            are of lower order.
        lower_order_final: of less than 15 steps, the last are of order ..., 2, 1.
    """

    order: Annotated[int, within(1, 4)] = static(default=3)
    lower_order_final: bool = static(default=True)

    def init(self, x: Array) -> Any:
        return (jnp.zeros_like(x),) * (self.order - 1)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        del draw
        denoised = denoise(x, at.sigma)
        values = (slope(x, denoised, at.sigma), *state)
        orders = multistep_orders(
            self.order, at.num_steps, lower_order_final=self.lower_order_final
        )

        def advanced(p: int) -> Array:
            h = jnp.log(at.sigma / at.sigma_next)
            nodes = tuple(
                jnp.log(at.sigma / at.sigmas[at.number - j]) / h for j in range(p)
            )
            coefficients = for_noise(at.sigma, at.sigma_next, p)
            return advance(x, coefficients, interpolant(values[:p], nodes))

        order = jnp.where(at.sigma_next > 0, jnp.asarray(orders)[at.number], 0)
        x_next = of_order(order, self.order, advanced, denoised)
        return Step(x_next, denoised, values[: self.order - 1])
