"""Methods of restoration that a config can name, with all their options.

Each is a function (denoise, measurement, y, *, noise_std, ...) -> `Restorer`. What the
run knows is given: `noise_std`, `sigma_data`, and `grid`, the noise levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np

from score_sde.editing import guided
from score_sde.editing.decoupled import DAPS, REDDiff
from score_sde.editing.stepwise import DDRM, DiffPIR, FlowDPS
from score_sde.fields import checks_rules, fields_of
from score_sde.measurements import Measurement
from score_sde.rules import NonNegative, Positive, Share, at_least, below
from score_sde.samplers import Sampler
from score_sde.samplers.repaint import RePaint
from score_sde.types import Array, Denoise, Grid

Observation = Array | np.ndarray
"""What was measured, [batch, ...], or [1, ...] for all examples."""


class Restorer(NamedTuple):
    """A denoiser, and the sampler that it needs."""

    denoise: Denoise
    sampler: Sampler | None = None
    """None for any sampler."""


def replace(
    denoise: Denoise, measurement: Measurement, y: Observation, *, noise_std: float
) -> Restorer:
    """Replace by `score_sde.editing.replace`, which takes y as free of noise."""
    _without_noise("replace", noise_std)
    return Restorer(guided.replace(denoise, measurement, y))


@checks_rules
def repaint(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    noise_std: float,
    repeats: Annotated[int, at_least(1)] = 10,
    jump_length: Annotated[int, at_least(1)] = 1,
) -> Restorer:
    """Replace by `score_sde.editing.replace`, over and over each stretch of the grid.

    Args:
        denoise: the denoiser.
        measurement: A.
        y: what was measured.
        noise_std: must be 0.
        repeats: how often a stretch is gone down.
        jump_length: levels to a stretch.
    """
    _without_noise("repaint", noise_std)
    sampler = RePaint(repeats=repeats, jump_length=jump_length)
    return Restorer(guided.replace(denoise, measurement, y), sampler)


def pseudo_inverse(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    noise_std: float,
    sigma_data: float,
) -> Restorer:
    """Guide by `score_sde.editing.pseudo_inverse`."""
    made = guided.pseudo_inverse(
        denoise, measurement, y, noise_std=noise_std, sigma_data=sigma_data
    )
    return Restorer(made)


@checks_rules
def moment_matching(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    noise_std: float,
    num_iterations: Annotated[int, at_least(1)] = 1,
) -> Restorer:
    """Guide by `score_sde.editing.moment_matching`.

    Args:
        denoise: the denoiser.
        measurement: A.
        y: what was measured.
        noise_std: of the noise in y.
        num_iterations: of conjugate gradients, one evaluation each.
    """
    made = guided.moment_matching(
        denoise, measurement, y, noise_std=noise_std, num_iterations=num_iterations
    )
    return Restorer(made)


@checks_rules
def dps(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    grid: Grid,
    step: Annotated[float, Positive] = 1.0,
) -> Restorer:
    """Guide by `score_sde.editing.dps`.

    Args:
        denoise: the denoiser.
        measurement: A, linear or not.
        y: what was measured.
        grid: the noise levels that are sampled on.
        step: the length of a step, in the unit of x.
    """
    return Restorer(guided.dps(denoise, measurement, y, sigmas=grid, step=step))


@checks_rules
def ddrm(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    noise_std: float,
    eta: Annotated[float, Share] = 0.85,
    eta_b: Annotated[float, Share] = 1.0,
) -> Restorer:
    """Draw by `score_sde.editing.DDRM`.

    Args:
        denoise: the denoiser.
        measurement: A, whose singular values are known.
        y: what was measured.
        noise_std: of the noise in y.
        eta: share of fresh noise.
        eta_b: how much of y is taken.
    """
    rule = DDRM(measurement, y, noise_std=noise_std, eta=eta, eta_b=eta_b)
    return Restorer(denoise, rule)


@checks_rules
def diffpir(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    noise_std: float,
    strength: Annotated[float, Positive] = 8.0,
    zeta: Annotated[float, Share] = 0.5,
) -> Restorer:
    """Draw by `score_sde.editing.DiffPIR`.

    Args:
        denoise: the denoiser.
        measurement: A, linear.
        y: what was measured.
        noise_std: of the noise in y.
        strength: how much the denoiser's prediction counts.
        zeta: share of fresh noise, in variance.
    """
    rule = DiffPIR(measurement, y, noise_std=noise_std, strength=strength, zeta=zeta)
    return Restorer(denoise, rule)


@checks_rules
def flow_dps(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    noise_std: float,
    num_steps: Annotated[int, at_least(1)] = 3,
    rate: Annotated[float, Positive] = 1.0,
) -> Restorer:
    """Draw by `score_sde.editing.FlowDPS`.

    Args:
        denoise: the denoiser.
        measurement: A, linear or not.
        y: what was measured.
        noise_std: of the noise in y, which it does not use.
        num_steps: steps down |y - A x0|^2 at each level.
        rate: their size.
    """
    rule = FlowDPS(measurement, y, noise_std=noise_std, num_steps=num_steps, rate=rate)
    return Restorer(denoise, rule)


@checks_rules
def daps(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    noise_std: float,
    sigma_data: float,
    ode_steps: Annotated[int, at_least(1)] = 5,
    langevin_steps: Annotated[int, NonNegative] = 0,
    langevin_rate: Annotated[float, Positive] = 0.1,
) -> Restorer:
    """Draw by `score_sde.editing.DAPS`.

    Args:
        denoise: the denoiser.
        measurement: A; linear, if langevin_steps is 0.
        y: what was measured.
        noise_std: of the noise in y.
        sigma_data: standard deviation of the data.
        ode_steps: Euler steps to clean data at each level.
        langevin_steps: of Langevin's dynamics; 0 to draw exactly.
        langevin_rate: their size.
    """
    rule = DAPS(
        measurement,
        y,
        noise_std=noise_std,
        sigma_data=sigma_data,
        ode_steps=ode_steps,
        langevin_steps=langevin_steps,
        langevin_rate=langevin_rate,
    )
    return Restorer(denoise, rule)


@checks_rules
def red_diff(
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    *,
    noise_std: float,
    strength: Annotated[float, Positive] = 0.25,
    rate: Annotated[float, Positive] = 0.1,
    momentum: Annotated[float, below(1)] = 0.9,
) -> Restorer:
    """Seek a mode by `score_sde.editing.REDDiff`.

    Args:
        denoise: the denoiser.
        measurement: A, linear or not.
        y: what was measured.
        noise_std: of the noise in y, which it does not use.
        strength: how much the prior counts.
        rate: the learning rate of Adam.
        momentum: Adam's first number.
    """
    rule = REDDiff(
        measurement,
        y,
        noise_std=noise_std,
        strength=strength,
        rate=rate,
        momentum=momentum,
    )
    return Restorer(denoise, rule)


def restore_by(
    method: Callable[..., Restorer],
    denoise: Denoise,
    measurement: Measurement,
    y: Observation,
    **offers: Any,
) -> Restorer:
    """Call a method with those of the offers that it has an argument for.

    Args:
        method: of `METHODS`, its options bound, or a user's own.
        denoise: the denoiser.
        measurement: A.
        y: what was measured.
        offers: `noise_std` and `grid`, of which it takes what it wants.
    """
    wanted = fields_of(method, skip=3).keys() & offers.keys()
    return method(denoise, measurement, y, **{name: offers[name] for name in wanted})


def _without_noise(method: str, noise_std: float) -> None:
    """Raise ValueError if a method that knows no noise is given some."""
    if isinstance(noise_std, (int, float)) and noise_std > 0:
        raise ValueError(
            f"{method} takes what was measured as free of noise, and noise_std is "
            f"{noise_std}: choose another method, or 0."
        )


METHODS: dict[str, Callable[..., Restorer]] = {
    "replace": replace,
    "repaint": repaint,
    "pseudo_inverse": pseudo_inverse,
    "moment_matching": moment_matching,
    "dps": dps,
    "ddrm": ddrm,
    "diffpir": diffpir,
    "flow_dps": flow_dps,
    "daps": daps,
    "red_diff": red_diff,
}
"""Name -> function; a user's own are added."""
