"""Restoration and editing: functions from denoiser to denoiser, and starting points.

Given y = A x0 + s n (`measurements.py`), the denoiser of the posterior is

    D_y = D + sigma^2 grad log p(y given x, sigma)

and the methods differ in what they take for p(y given x, sigma). With J the Jacobian of
D, sigma^2 J is the covariance of x0 given x (Efron 2011), so that a Gaussian guess is

    D_y = D + sigma^2 J' A' V^-1 (y - A D),     V the covariance of y given x,

where V is s^2 + A r^2 A' with r^2 a guess (`pseudo_inverse`), or s^2 + sigma^2 A J A'
(`moment_matching`). `dps` takes steps down |y - A D| instead, and `replace` none.

The Jacobian of a perfect denoiser is symmetric; J' is applied as J here, by one pass
forwards, which a loop on a CPU compiles well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from score_sde.arrays import (
    example_keys,
    expand_like,
    per_example,
    sum_over_data,
)
from score_sde.fields import checks_rules
from score_sde.guidance import Guided, network_evals
from score_sde.measurements import Measurement
from score_sde.rules import NonNegative, Positive, Rule, at_least
from score_sde.samplers import grids, solve_ode
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Key, Level, Scalar, Score

Strength = Rule("> 0 and <= 1", lambda v: 0 < v <= 1)


def replace(denoise: Denoise, measurement: Measurement, y: Array) -> Guided:
    """Replace what was predicted by what was measured: D + A^+ (y - A D).

    With a mask or a grey image as A, the inpainting and colourisation of Song et al.
    2021: along any sampler, the known coordinates are y plus the noise of their level.
    The others see y through that noise alone, so that this is an approximation; the
    sampler "repaint" brings them together (Lugmayr et al. 2022).

    Args:
        denoise: the denoiser.
        measurement: A.
        y: what was measured without noise, [batch, ...], or [1, ...] for all examples.

    Raises: ValueError, when called, for y of another shape than A x has.
    """

    def replaced(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return keep_measured(denoise(x, sigma, cond), measurement, y)

    return Guided(replaced, lambda sigma: network_evals(denoise, sigma))


def keep_measured(x: Array, measurement: Measurement, y: Array) -> Array:
    """Move x to the nearest point with A x = y: known pixels are as given."""
    return x + measurement.pseudo_inverse(_residual(x, measurement, y))


@checks_rules
def pseudo_inverse(
    denoise: Denoise,
    measurement: Measurement,
    y: Array,
    *,
    noise_std: Annotated[float, NonNegative],
    sigma_data: Annotated[float, Positive],
) -> Guided:
    """Guide as if x0 given x were N(D, r^2) (Song et al. 2023, 'PiGDM').

    r^2 = sigma^2 sd^2 / (sigma^2 + sd^2), sd = sigma_data: exact for Gaussian data of
    that standard deviation in every direction.

    Args:
        denoise: the denoiser.
        measurement: A.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        noise_std: s, the standard deviation of the noise in y; 0 for none.
        sigma_data: standard deviation of the data.

    Raises: ValueError for options that break a rule; when called, for y of another
        shape than A x has.
    """

    def solve(residual: Array, sigma: Scalar, jacobian: Linear) -> Array:
        del jacobian
        variance = jnp.asarray(sigma, residual.dtype) ** 2
        spread = variance * sigma_data**2 / (variance + sigma_data**2)
        return measurement.solve(residual, spread, noise_std**2)

    return _guided(denoise, measurement, y, solve, tangents=1)


@checks_rules
def moment_matching(
    denoise: Denoise,
    measurement: Measurement,
    y: Array,
    *,
    noise_std: Annotated[float, NonNegative],
    num_iterations: Annotated[int, at_least(1)] = 1,
) -> Guided:
    """Guide with the covariance that the denoiser itself has (Rozet et al. 2024).

    V = s^2 + sigma^2 A J A', solved by conjugate gradients: exact for Gaussian data
    once num_iterations is the number of distinct eigenvalues of V. A trained network's
    J has negative ones too, and more than one iteration then needs a noise_std that
    outweighs them.

    Args:
        denoise: the denoiser.
        measurement: A.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        noise_std: s, the standard deviation of the noise in y; 0 for none.
        num_iterations: of conjugate gradients, one evaluation each.

    Raises: ValueError for options that break a rule; when called, for y of another
        shape than A x has.
    """

    def solve(residual: Array, sigma: Scalar, jacobian: Linear) -> Array:
        def covariance(v: Array) -> Array:
            spread = expand_like(sigma, v) ** 2
            within = measurement(jacobian(measurement.transpose(v)))
            return noise_std**2 * v + spread * within

        return conjugate_gradients(covariance, residual, num_iterations)

    return _guided(denoise, measurement, y, solve, tangents=1 + num_iterations)


@checks_rules
def dps(
    denoise: Denoise,
    measurement: Measurement,
    y: Array,
    *,
    sigmas: Array,
    step: Annotated[float, Positive] = 1.0,
) -> Guided:
    """Step down |y - A D(x)| by this length per step of the grid (Chung et al. 2023).

    This is their algorithm 1 with its normalised step, in x = xt / alpha. The denoiser
    moves by step / (1 - sigma_next / sigma), of which an Euler step from sigma to
    sigma_next, or ddim's, takes that share. Samplers with noise take somewhat more.

    Args:
        denoise: the denoiser.
        measurement: A.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        sigmas: the grid that is sampled on, [num_steps + 1].
        step: the length of a step, in the unit of x.

    Raises: ValueError for a step that is not > 0; when called, for y of another shape
        than A x has.
    """

    def solve(residual: Array, sigma: Scalar, jacobian: Linear) -> Array:
        del jacobian
        sigma = jnp.asarray(sigma, residual.dtype)
        share = grids.share_of_step(sigmas, sigma)
        length = jnp.sqrt(sum_over_data(residual**2))
        unit = residual / expand_like(jnp.where(length > 0, length, 1.0), residual)
        return unit * expand_like(step / (share * sigma**2), residual)

    return _guided(denoise, measurement, y, solve, tangents=1)


Linear = Callable[[Array], Array]
"""A linear map of a batch, example by example."""


def _guided(
    denoise: Denoise,
    measurement: Measurement,
    y: Array,
    solve: Callable[[Array, Scalar, Linear], Array],
    *,
    tangents: int,
) -> Guided:
    """D + sigma^2 J A' solve(y - A D). A tangent counts as an evaluation."""

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        x0, jacobian = jax.linearize(lambda x: denoise(x, sigma, cond), x)
        weighed = solve(_residual(x0, measurement, y), sigma, jacobian)
        pull = jacobian(measurement.transpose(weighed))
        return x0 + expand_like(sigma, x) ** 2 * pull

    return Guided(guided, lambda sigma: (1 + tangents) * network_evals(denoise, sigma))


def _residual(x0: Array, measurement: Measurement, y: Array) -> Array:
    """y - A x0, an error if their shapes differ."""
    predicted = measurement(x0)
    y = jnp.asarray(y, x0.dtype)
    if y.shape[1:] != predicted.shape[1:] or y.shape[0] not in (1, len(x0)):
        raise ValueError(
            f"y has shape {y.shape}; data of shape {x0.shape} are measured as shape "
            f"{predicted.shape}."
        )
    # What A never gives, such as values under a mask, was not measured.
    return measurement.project(y) - predicted


def conjugate_gradients(matrix: Linear, b: Array, num_iterations: int) -> Array:
    """Solve matrix(v) = b for each example by itself (Hestenes and Stiefel 1952)."""

    def ratio(a: Array, b: Array) -> Array:
        return expand_like(jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0), v)

    def iterate(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, ...]:
        v, rest, direction = state
        image = matrix(direction)
        length = sum_over_data(rest**2)
        move = ratio(length, sum_over_data(direction * image))
        v, rest = v + move * direction, rest - move * image
        direction = rest + ratio(sum_over_data(rest**2), length) * direction
        return v, rest, direction

    v = jnp.zeros_like(b)
    return jax.lax.fori_loop(0, num_iterations, iterate, (v, b, b))[0]


@checks_rules
def tail(sigmas: Array, strength: Annotated[float, Strength]) -> Array:
    """Cut a grid to its last levels, a share `strength` of its steps (Meng 2022).

    Raises: ValueError unless 0 < strength <= 1.
    """
    num_steps = len(sigmas) - 1
    return sigmas[num_steps - max(1, round(strength * num_steps)) :]


def noised(
    key: Key, x0: Float[Array, "batch *dims"], sigma: Level
) -> Float[Array, "batch *dims"]:
    """Noise x0 to level sigma, to sample on; example i depends on (key, i)."""
    eps = per_example(jr.normal, example_keys(key, len(x0)), x0)
    return x0 + expand_like(sigma, x0) * eps


def translate(
    score: Score,
    sde: SDE,
    x0: Float[Array, "batch *dims"],
    *,
    cond_from: Any,
    cond_to: Any,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Float[Array, "batch *dims"]:
    """Encode under one condition and decode under another (Su et al. 2023).

    The probability flow leads both ways; under the same condition x0 comes back. An
    example whose solve gave up is NaN.

    Args:
        score: score(xt, t, cond), shaped like xt.
        sde: the forward process.
        x0: clean data, [batch, *dims].
        cond_from: the condition of x0.
        cond_to: the condition of the result.
        rtol: relative tolerance of both solves.
        atol: absolute tolerance of both solves.
    """
    alpha = expand_like(sde.alpha(sde.t_min), x0)
    options: dict[str, Any] = {"rtol": rtol, "atol": atol}
    encoded = solve_ode(
        score, sde, alpha * x0, t0=sde.t_min, t1=sde.t_max, cond=cond_from, **options
    )
    return solve_ode(score, sde, encoded.x, cond=cond_to, **options).x / alpha
