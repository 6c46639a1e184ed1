"""Step sizes of a diffrax solve that ends where its drift is not a number."""

from __future__ import annotations

from typing import Any

import diffrax
import jax
import jax.numpy as jnp


class StopsAtNaN(diffrax.AbstractStepSizeController):
    """The step sizes of another controller, which end a solve at the first NaN.

    A controller takes an error that is not finite for a step too long, and tries ever
    shorter ones; a score that is not a number does not become one thereby, and all
    examples of a batch would wait.

    Args:
        controller: chooses the steps of all others.
    """

    controller: diffrax.AbstractStepSizeController

    def wrap(self, direction: Any) -> StopsAtNaN:
        return StopsAtNaN(self.controller.wrap(direction))

    def init(self, *args: Any) -> Any:
        return self.controller.init(*args)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> Any:
        *step, result = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
        )
        finite = jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(y_error)])
        result = diffrax.RESULTS.where(
            finite.all(), result, diffrax.RESULTS.dt_min_reached
        )
        return (*step, result)
