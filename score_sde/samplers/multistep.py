"""Exponential integrators: the linear part of the reverse process is solved exactly.

With x = xt / alpha, lambda = -log sigma and eps = (x - D) / sigma, the probability flow
(rate 1) and the mean of the reverse SDE (rate 2) of every SDE are

    dx/dlambda = rate (D - x) = -rate sigma eps

From lambda to lambda + h, with the prediction a polynomial sum_k a_k u^k of
u = (passed lambda) / h, and phi_(k+1)(z) the integral over u of e^(z (1 - u)) u^k / k!:

    x <- e^-z x + z sum_k k! phi_(k+1)(-z) a_k,  z = rate h      data prediction, D
    x <- x - rate sigma_next h sum_k k! phi_(k+1)(h) a_k         noise prediction, eps

(Hochbruck and Ostermann 2010; Lu et al. 2022a, eq. 3.4, and 2022b, eq. 8). The methods
differ in the points through which the polynomial goes. A step to sigma = 0 is not for
them: there h is infinite, and the best point is D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.samplers.exponential import phi
from score_sde.types import Array, Scalar


class Coefficients(NamedTuple):
    """Coefficients of the step x <- carry x + sum_k weights[k] a_k."""

    carry: Array
    weights: tuple[Array, ...]


def for_data(
    sigma: Array, sigma_next: Array, count: int, *, rate: int = 1
) -> Coefficients:
    """Coefficients of x and of the first `count` a_k of D."""
    h = jnp.log(sigma / sigma_next)
    carry = (sigma_next / sigma) ** rate
    higher = (
        rate * h * math.factorial(k) * phi(k + 1, -rate * h) for k in range(1, count)
    )
    return Coefficients(carry, (1 - carry, *higher))


def for_noise(
    sigma: Array, sigma_next: Array, count: int, *, rate: int = 1
) -> Coefficients:
    """Coefficients of x and of the first `count` a_k of eps."""
    h = jnp.log(sigma / sigma_next)
    higher = (
        -rate * sigma_next * h * math.factorial(k) * phi(k + 1, h)
        for k in range(1, count)
    )
    first = rate * (sigma_next - sigma)
    return Coefficients(jnp.ones_like(sigma), (first, *higher))


def advance(x: Array, coefficients: Coefficients, terms: list[Array]) -> Array:
    """Make the step, for terms a_0, a_1, ... of the polynomial."""
    moved = coefficients.carry * x
    for weight, term in zip(coefficients.weights, terms, strict=True):
        moved = moved + weight * term
    return moved


def interpolant(values: tuple[Array, ...], nodes: tuple[Scalar, ...]) -> list[Array]:
    """Compute a_0, a_1, ... of the polynomial through all (node, value).

    The method is Newton's divided differences.
    """
    differences = list(values)
    terms = [jnp.zeros_like(values[0])] * len(values)
    basis: list[Scalar] = [1.0]  # of prod_(j < k) (u - node_j)
    for k in range(len(values)):
        for degree, coefficient in enumerate(basis):
            terms[degree] = terms[degree] + coefficient * differences[0]
        lower, upper = [0.0, *basis], [*basis, 0.0]
        basis = [low - nodes[k] * up for low, up in zip(lower, upper, strict=True)]
        differences = [
            (right - left) / (nodes[j + k + 1] - nodes[j])
            for j, (left, right) in enumerate(
                zip(differences[:-1], differences[1:], strict=True)
            )
        ]
    return terms


# Below this many steps a multistep method ends with steps of lower order.
FEW_STEPS = 15


def multistep_orders(
    order: int, num_steps: int, *, lower_order_final: bool
) -> np.ndarray:
    """Raise the order 1, 2, ..., and lower it in the last ones of few steps."""
    orders = np.minimum(np.arange(1, num_steps + 1), order)
    if lower_order_final and num_steps < FEW_STEPS:
        orders = np.minimum(orders, np.arange(num_steps, 0, -1))
    return orders


def of_order(
    order: Array, highest: int, step: Callable[[int], Array], otherwise: Array
) -> Array:
    """Call step(order) for an order known at run time; `otherwise` if it is 0."""
    steps = [partial(step, p) for p in range(1, highest + 1)]
    return jax.lax.switch(order, [lambda: otherwise, *steps])
