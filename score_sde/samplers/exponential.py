"""Functions of exponential integrators.

With the denoiser, or the noise, a polynomial in log sigma, the probability flow and the
reverse SDE are solved exactly; their solutions are sums of

    phi_k(z) = sum_j z^j / (j + k)!,    phi_0 = exp,    phi_(k+1) = (phi_k - 1/k!) / z

(Hochbruck and Ostermann 2010, eq. 2.10-2.12).
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from score_sde.types import Array, Scalar

# 1 / (19 + k)! is below the rounding of float64.
TERMS = 19


def phi(k: int, z: Scalar) -> Array:
    """Compute phi_k(z), k >= 1, without cancellation of its recursion near z = 0."""
    z = jnp.asarray(z)
    small = jnp.abs(z) < 1
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    series = jnp.zeros_like(z)
    for j in reversed(range(TERMS)):
        series = series * near + 1 / math.factorial(j + k)
    recursion = jnp.expm1(far) / far
    for j in range(1, k):
        recursion = (recursion - 1 / math.factorial(j)) / far
    return jnp.where(small, series, recursion)


def toward(x: Array, denoised: Array, ratio: Scalar) -> Array:
    """Follow the flow with a constant denoiser: the distance to it shrinks by `ratio`.

    From sigma to sigma_next the ratio is sigma_next / sigma; to 0 the denoised itself.
    """
    return denoised + ratio * (x - denoised)


def between(sigma: Scalar, sigma_next: Scalar, r: float) -> Array:
    """Find the level a fraction r of the way in log sigma; both ends positive or 0."""
    return jnp.power(sigma, 1 - r) * jnp.power(sigma_next, r)
