"""UniPC: a predictor and a corrector that share evaluations (Zhao et al. 2023)."""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from score_sde.fields import pytree, static
from score_sde.rules import at_least, each, one_of, within
from score_sde.samplers.multistep import (
    Coefficients,
    advance,
    for_data,
    for_noise,
    interpolant,
    of_order,
)
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step, slope
from score_sde.types import Array


@pytree
class UniPC(Sampler):
    """UniPC: a multistep exponential integrator, one evaluation a step.

    The predictor of order p fits the predictions at the last p levels; the corrector
    adds the one at the level that was predicted, and moves x there again. The last x is
    not corrected, which would cost an evaluation.

    Args:
        order: of the predictor, 1 to 3; the corrector's is one higher.
        solver_type: "bh1" or "bh2", the function B(h) that weighs the difference where
            there is but one: h, or its exponential e^h - 1.
        predict_x0: data prediction; else noise prediction.
        lower_order_final: end with steps of order ..., 2, 1.
        disable_corrector: the steps whose results are not corrected.
    """

    order: Annotated[int, within(1, 3)] = static(default=2)
    solver_type: Annotated[str, one_of(("bh1", "bh2"))] = static(default="bh2")
    predict_x0: bool = static(default=True)
    lower_order_final: bool = static(default=True)
    disable_corrector: Annotated[tuple[int, ...], each(at_least(0))] = static(
        default=()
    )

    def init(self, x: Array) -> Any:
        return x, (jnp.zeros_like(x),) * self.order

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        del draw
        denoised = denoise(x, at.sigma)
        value = denoised if self.predict_x0 else slope(x, denoised, at.sigma)
        x = self.corrected(x, value, at, *state)
        values = (value, *state[1])
        orders = jnp.asarray(self.orders(at.num_steps))

        def predicted(p: int) -> Array:
            return self.advanced(x, values[:p], range(0, -p, -1), at)

        order = jnp.where(at.sigma_next > 0, orders[at.number], 0)
        x_next = of_order(order, self.order, predicted, denoised)
        return Step(x_next, denoised, (x, values[: self.order]))

    def corrected(
        self, x: Array, value: Array, at: Interval, start: Array, past: Any
    ) -> Array:
        """Correct x by the prediction that was made there; keep it in step 0."""
        orders = [0, *self.orders(at.num_steps)]
        for number in self.disable_corrector:
            orders[number + 1] = 0
        before = at._replace(number=at.number - 1)

        def again(p: int) -> Array:
            return self.advanced(start, (value, *past[:p]), range(1, -p, -1), before)

        return of_order(jnp.asarray(orders)[at.number], self.order, again, x)

    def orders(self, num_steps: int) -> np.ndarray:
        """The order of each step of the grid."""
        orders = np.minimum(np.arange(1, num_steps + 1), self.order)
        if self.lower_order_final:
            orders = np.minimum(orders, np.arange(num_steps, 0, -1))
        return orders

    def advanced(
        self, start: Array, values: tuple[Array, ...], offsets: range, at: Interval
    ) -> Array:
        """Make a step to at.sigma_next, through predictions at levels of the grid.

        Args:
            start: x at at.sigma.
            values: the predictions.
            offsets: their levels, counted from the one of at.sigma.
            at: the step.
        """
        h = jnp.log(at.sigma / at.sigma_next)
        nodes = tuple(
            jnp.log(at.sigma / at.sigmas[at.number + offset]) / h for offset in offsets
        )
        make = for_data if self.predict_x0 else for_noise
        carry, weights = make(at.sigma, at.sigma_next, len(values))
        if len(values) == 2:  # half of B(h), as published, in place of the integral
            exponential = weights[0]
            linear = h if self.predict_x0 else -at.sigma_next * h
            chosen = exponential if self.solver_type == "bh2" else linear
            weights = (weights[0], 0.5 * chosen)
        return advance(start, Coefficients(carry, weights), interpolant(values, nodes))
