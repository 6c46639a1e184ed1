"""Restoration as functions from denoiser to denoiser.

With J the Jacobian of D, sigma^2 J is the covariance of x0 given x (Efron 2011), so
that a Gaussian guess at p(y given x, sigma) is

    D_y = D + sigma^2 J' A' V^-1 (y - A D),     V the covariance of y given x,

where V is s^2 + A r^2 A' with r^2 a guess (`pseudo_inverse`), or s^2 + sigma^2 A J A'
(`moment_matching`). `dps` takes steps down |y - A D| instead, and `replace` none.

The Jacobian of a perfect denoiser is symmetric; J' is applied as J here, by one pass
forwards, which a loop on a CPU compiles well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import expand_like, sum_over_data
from score_sde.checks import check_grid
from score_sde.fields import checks_rules
from score_sde.guidance import Guided, network_evals
from score_sde.measurements import Measurement, conjugate_gradients, require_real
from score_sde.rules import NonNegative, Positive, at_least
from score_sde.samplers import grids
from score_sde.types import Array, Denoise, Scalar


def replace(
    denoise: Denoise, measurement: Measurement, y: Array | np.ndarray
) -> Guided:
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


def keep_measured(x: Array, measurement: Measurement, y: Array | np.ndarray) -> Array:
    """Move x to the nearest point with A x = y: known pixels are as given."""
    residual(x, measurement, y)  # refuses y of another shape
    return measurement.nearest(x, observed(y, x.dtype))


@checks_rules
def pseudo_inverse(
    denoise: Denoise,
    measurement: Measurement,
    y: Array | np.ndarray,
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
    require_linear("pseudo_inverse", measurement)

    def lifted(gap: Array, at: _Predicted) -> Array:
        variance = jnp.asarray(at.sigma, gap.dtype) ** 2
        spread = variance * sigma_data**2 / (variance + sigma_data**2)
        return measurement.lift(gap, spread, noise_std**2)

    return _guided(denoise, measurement, y, lifted, tangents=1)


@checks_rules
def moment_matching(
    denoise: Denoise,
    measurement: Measurement,
    y: Array | np.ndarray,
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
    require_linear("moment_matching", measurement)

    def lifted(gap: Array, at: _Predicted) -> Array:
        def covariance(v: Array) -> Array:
            spread = expand_like(at.sigma, v) ** 2
            within = measurement(at.jacobian(measurement.transpose(v)))
            return noise_std**2 * v + spread * within

        if not measurement.has_spectrum:
            # What A never gives is lost to A' in the end, and V is singular there.
            gap = measurement.project(gap)
        solved = conjugate_gradients(covariance, gap, num_iterations)
        return measurement.transpose(solved)

    return _guided(denoise, measurement, y, lifted, tangents=1 + num_iterations)


@checks_rules
def dps(
    denoise: Denoise,
    measurement: Measurement,
    y: Array | np.ndarray,
    *,
    sigmas: Array,
    step: Annotated[float, Positive] = 1.0,
) -> Guided:
    """Step down |y - A D(x)| by this length per step of the grid (Chung et al. 2023).

    This is their algorithm 1 with its normalised step, in x = xt / alpha, for any
    measurement with a derivative, linear or not. The denoiser
    moves by step / (1 - sigma_next / sigma), of which an Euler step from sigma to
    sigma_next, or ddim's, takes that share. Samplers with noise take somewhat more, and
    those of higher order a mean over some steps of the grid.

    Args:
        denoise: the denoiser.
        measurement: A.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        sigmas: the grid that is sampled on, [num_steps + 1].
        step: the length of a step, in the unit of x.

    Raises: ValueError for a step that is not > 0 and a grid that does not decrease;
        when called, for y of another shape than A x has.
    """
    check_grid(sigmas)

    def lifted(gap: Array, at: _Predicted) -> Array:
        sigma = jnp.asarray(at.sigma, gap.dtype)
        share = grids.share_of_step(sigmas, sigma)
        length = jnp.sqrt(sum_over_data(gap**2))
        unit = gap / expand_like(jnp.where(length > 0, length, 1.0), gap)
        weighed = unit * expand_like(step / (share * sigma**2), gap)
        return measurement.pull(at.x0, weighed)

    return _guided(denoise, measurement, y, lifted, tangents=1)


class _Predicted(NamedTuple):
    """A prediction, and how it changes with x."""

    x0: Array
    """D(x, sigma)."""
    sigma: Scalar
    jacobian: Callable[[Array], Array]
    """Tangent of x -> that of D."""


def _guided(
    denoise: Denoise,
    measurement: Measurement,
    y: Array | np.ndarray,
    lifted: Callable[[Array, _Predicted], Array],
    *,
    tangents: int,
) -> Guided:
    """D + sigma^2 J A' V^-1 (y - A D). A tangent counts as an evaluation.

    Args:
        denoise: the denoiser.
        measurement: A.
        y: what was measured.
        lifted: (gap, prediction) -> A' V^-1 gap, shaped like x.
        tangents: how many there are.
    """

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        x0, jacobian = jax.linearize(lambda x: denoise(x, sigma, cond), x)
        at = _Predicted(x0, sigma, jacobian)
        pull = jacobian(lifted(residual(x0, measurement, y), at))
        return x0 + expand_like(sigma, x) ** 2 * pull

    return Guided(guided, lambda sigma: (1 + tangents) * network_evals(denoise, sigma))


def residual(x0: Array, measurement: Measurement, y: Array | np.ndarray) -> Array:
    """y - A x0; an error if their shapes differ, or one is complex."""
    predicted = measurement(x0)
    require_real(predicted, f"A x of {type(measurement).__name__}")
    y = observed(y, x0.dtype)
    if y.shape[1:] != predicted.shape[1:] or y.shape[0] not in (1, len(x0)):
        raise ValueError(
            f"y has shape {y.shape}; data of shape {x0.shape} are measured as shape "
            f"{predicted.shape}."
        )
    return measurement.without_unmeasured(y) - predicted


def observed(y: Array | np.ndarray, dtype: Any) -> Array:
    """Make what was measured an array of this type, and refuse complex numbers."""
    require_real(y, "y")
    return jnp.asarray(y, dtype)


def require_linear(
    method: str, measurement: Measurement, *, spectrum: bool = False
) -> None:
    """Refuse a measurement that a method can't use.

    Args:
        method: its name, for the error.
        measurement: A.
        spectrum: whether the method also needs the singular values of A.

    Raises: ValueError.
    """
    if not measurement.is_linear:
        raise ValueError(
            f"{method} is for linear measurements, and {type(measurement).__name__} is "
            "not one: dps, daps with langevin_steps, and red_diff take any."
        )
    if spectrum and not measurement.has_spectrum:
        raise ValueError(
            f"{method} needs the singular values of the measurement, which "
            f"{type(measurement).__name__} does not know."
        )
