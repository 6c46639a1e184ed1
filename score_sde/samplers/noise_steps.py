"""Single steps of DPM-Solver, in its form that predicts the noise.

With eps = (x - D) / sigma a polynomial in log sigma, and h = log(sigma / target),

    x_target = x + (target - sigma) eps - target (h phi_2(h) eps' + ...)

(Lu et al. 2022, arXiv 2206.00927, eq. 3.4 and alg. 1, 2). A level between is named by
its fraction r of the way in log sigma. Levels are scalars or [batch].
"""

from __future__ import annotations

import jax.numpy as jnp

from score_sde.arrays import expand_like
from score_sde.samplers.exponential import between, phi
from score_sde.samplers.steps import Model
from score_sde.types import Array


def noise_of(x: Array, denoised: Array, sigma: Array) -> Array:
    """Compute the noise that a denoised value leaves."""
    return (x - denoised) / expand_like(sigma, x)


def first_order(x: Array, eps: Array, sigma: Array, target: Array) -> Array:
    """Step of DPM-Solver-1, which is DDIM and Euler: no further evaluation."""
    return x + expand_like(target - sigma, x) * eps


def noise_at(
    denoise: Model, x: Array, eps: Array, sigma: Array, target: Array, r: float
) -> Array:
    """Predict the noise a fraction r of the way, reached by first order."""
    level = between(sigma, target, r)
    reached = first_order(x, eps, sigma, level)
    return noise_of(reached, denoise(reached, level), level)


def second_order(
    x: Array, eps: Array, eps_r: Array, sigma: Array, target: Array, r: float
) -> Array:
    """Step of DPM-Solver-2, of the noises at the beginning and at r."""
    used = eps + (eps_r - eps) / (2 * r)
    return x + expand_like(target - sigma, x) * used


def third_order(
    denoise: Model, x: Array, eps: Array, eps_r: Array, sigma: Array, target: Array
) -> Array:
    """Step of DPM-Solver-3 with r = 1/3, whose noise is given, and 2/3."""
    r1, r2 = 1 / 3, 2 / 3

    def bent(level: Array, h: Array, slope: Array) -> Array:
        curved = expand_like(level * h * phi(2, h), x) * slope
        return first_order(x, eps, sigma, level) - curved

    h, level = jnp.log(sigma / target), between(sigma, target, r2)
    reached = bent(level, r2 * h, (eps_r - eps) * (r2 / r1))
    eps_2 = noise_of(reached, denoise(reached, level), level)
    return bent(target, h, (eps_2 - eps) / r2)
