"""DPM-Solver and DPM-Solver++ (Lu et al. 2022a, 2022b), one evaluation a grid step.

A multistep method of order p fits the predictions at the last p levels. A singlestep
one goes in groups of p steps: the first of order 1, the second again from where the
group began and of order 2, and so on; the levels of the grid are its inner points.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
import numpy as np

from score_sde.fields import pytree, require, static
from score_sde.rules import one_of
from score_sde.samplers.multistep import (
    Coefficients,
    advance,
    for_data,
    for_noise,
    interpolant,
    multistep_orders,
    of_order,
)
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step, slope
from score_sde.types import Array

COEFFICIENTS: dict[str, Callable[[Array, Array, int], Coefficients]] = {
    "dpmsolver++": for_data,
    "dpmsolver": for_noise,
    "sde-dpmsolver++": partial(for_data, rate=2),
    "sde-dpmsolver": partial(for_noise, rate=2),
}


def singlestep_orders(
    order: int, num_steps: int, *, lower_order_final: bool
) -> np.ndarray:
    """Repeat the orders 1, ..., order; if need be, the last group is shorter.

    A group that would be the last and whole gives way to smaller ones, so that the
    last step is never of the full order.
    """
    orders = np.arange(num_steps) % order + 1
    if lower_order_final and order > 1 and num_steps % order == 0:
        orders[-1] = 1
    return orders


@pytree
class DPMSolver(Sampler):
    """The multistep and singlestep methods of DPM-Solver, common to its three orders.

    Args:
        algorithm_type: "dpmsolver++" predicts the data, "dpmsolver" the noise; with
            "sde-" before it, the reverse SDE is solved instead of the flow.
        solver_type: how the second order weighs the slope: "midpoint" as the constant
            term, "heun" exactly. In singlestep the third order also differs: "midpoint"
            takes one slope, "heun" slope and curvature.
        method: "multistep" or "singlestep".
        lower_order_final: end with lower orders, which is stabler at few steps.
        euler_at_final: the last step is of order 1.
    """

    algorithm_type: Annotated[str, one_of(COEFFICIENTS)] = static(default="dpmsolver++")
    solver_type: Annotated[str, one_of(("heun", "midpoint"))] = static(
        default="midpoint"
    )
    method: Annotated[str, one_of(("multistep", "singlestep"))] = static(
        default="multistep"
    )
    lower_order_final: bool = static(default=True)
    euler_at_final: bool = static(default=False)

    order: ClassVar[int]
    num_draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require(
            self,
            (
                "method 'multistep' for the reverse SDE",
                lambda s: s.method == "multistep" or not s.stochastic,
            ),
        )

    @property
    def stochastic(self) -> bool:
        return self.algorithm_type.startswith("sde-")

    def init(self, x: Array) -> Any:
        return x, (jnp.zeros_like(x),) * (self.order - 1)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        start, past = state
        denoised = denoise(x, at.sigma)
        value = denoised
        if not self.algorithm_type.endswith("++"):
            value = slope(x, denoised, at.sigma)
        values = (value, *past)
        order = jnp.asarray(self.orders(at.num_steps))[at.number]
        start = x if self.method == "multistep" else jnp.where(order == 1, x, start)

        def advanced(p: int) -> Array:
            return self.advanced(p, start, values[:p], at)

        # The best point at sigma = 0 is the prediction itself.
        order = jnp.where(at.sigma_next > 0, order, 0)
        x = of_order(order, self.order, advanced, denoised)
        if self.stochastic:
            x = x + self.noise_level(at) * draw(0, at.sigma, at.sigma_next)
        return Step(x, denoised, (start, values[: self.order - 1]))

    def orders(self, num_steps: int) -> np.ndarray:
        """The order of each step of the grid."""
        make = multistep_orders if self.method == "multistep" else singlestep_orders
        orders = make(self.order, num_steps, lower_order_final=self.lower_order_final)
        if self.euler_at_final:
            orders[-1] = 1
        return orders

    def advanced(
        self, order: int, start: Array, values: tuple[Array, ...], at: Interval
    ) -> Array:
        """Make a step of an order by as many predictions, newest first."""
        first = at.number if self.method == "multistep" else at.number - (order - 1)
        begin, end = at.sigmas[first], at.sigma_next
        h = jnp.log(begin / end)
        nodes = tuple(
            jnp.log(begin / at.sigmas[at.number - j]) / h for j in range(order)
        )
        midpoint = self.solver_type == "midpoint"
        if order == 3 and midpoint and self.method == "singlestep":
            values, nodes = (values[0], values[2]), (nodes[0], nodes[2])
        terms = interpolant(values, nodes)
        carry, weights = COEFFICIENTS[self.algorithm_type](begin, end, len(terms))
        if order == 2 and midpoint:
            weights = (weights[0], 0.5 * weights[0])
        if order == 3 and self.method == "multistep":
            # As published: half the weight that would make it of third order.
            weights = (*weights[:2], 0.5 * weights[2])
        return advance(start, Coefficients(carry, weights), terms)

    def noise_level(self, at: Interval) -> Array:
        """Standard deviation of the noise that the reverse SDE adds, 0 at the end."""
        ratio = at.sigma_next / at.sigma
        if self.algorithm_type.endswith("++"):
            return at.sigma_next * jnp.sqrt((1 - ratio) * (1 + ratio))
        added = at.sigma * jnp.sqrt((1 - ratio) * (1 + ratio))
        return jnp.where(at.sigma_next > 0, added, 0.0)


@pytree
class DPMSolver1(DPMSolver):
    """DPM-Solver of first order; of the flow, DDIM (Lu et al. 2022a, eq. 3.7)."""

    order: ClassVar[int] = 1

    @property
    def is_euler(self) -> bool:
        return not self.stochastic


@pytree
class DPMSolver2(DPMSolver):
    """DPM-Solver of second order; by default, DPM-Solver++(2M) (Lu 2022b, alg. 2)."""

    order: ClassVar[int] = 2


@pytree
class DPMSolver3(DPMSolver):
    """DPM-Solver of third order, if singlestep.

    The published multistep method gives the curvature half its weight, and is of second
    order with a small error; it is kept as published.
    """

    order: ClassVar[int] = 3
