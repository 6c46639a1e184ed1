"""Linear multistep: Adams-Bashforth in sigma, on any grid."""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp

from score_sde.fields import pytree, static
from score_sde.rules import at_least
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step, slope
from score_sde.types import Array


@pytree
class LMS(Sampler):
    """Adams-Bashforth: a polynomial through the last slopes; one evaluation a step.

    The first steps have fewer slopes behind them and an order as low as that, 1, 2, ...

    Args:
        order: the number of slopes.
    """

    order: Annotated[int, at_least(1)] = static(default=4)

    def init(self, x: Array) -> tuple[Array, ...]:
        """The slopes at the levels before, newest first."""
        return (jnp.zeros_like(x),) * (self.order - 1)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        del draw
        denoised = denoise(x, at.sigma)
        slopes = (slope(x, denoised, at.sigma), *state)
        weights = adams_weights(at.sigmas, at.number, self.order)
        for j in range(self.order):
            x = x + weights[j] * slopes[j]
        return Step(x, denoised, slopes[:-1])


def adams_weights(sigmas: Array, number: Array, order: int) -> Array:
    """Integrate the Lagrange polynomials from sigma to sigma_next: [order].

    Their nodes are sigmas[number - j], j = 0, 1, ...; where the grid has not so many,
    there are fewer nodes, and 0 for the rest.
    """
    past = jnp.arange(order)
    is_node = past <= number
    sigma, d_sigma = sigmas[number], sigmas[number + 1] - sigmas[number]
    # In units of the step and from its beginning, so that nothing cancels.
    nodes = (sigmas[jnp.where(is_node, number - past, number)] - sigma) / d_sigma
    weights = []
    for j in range(order):
        polynomial: list[Any] = [1.0]  # coefficients of u^0, u^1, ...
        for k in range(order):
            if k == j:
                continue
            used = is_node[j] & is_node[k]
            distance = jnp.where(used, nodes[j] - nodes[k], 1.0)
            constant = jnp.where(used, -nodes[k] / distance, 1.0)
            linear = jnp.where(used, 1 / distance, 0.0)
            below, above = [*polynomial, 0.0], [0.0, *polynomial]
            polynomial = [
                constant * a + linear * b for a, b in zip(below, above, strict=True)
            ]
        integral = sum(c / (power + 1) for power, c in enumerate(polynomial))
        weights.append(jnp.where(is_node[j], d_sigma * integral, 0.0))
    return jnp.stack(weights)
