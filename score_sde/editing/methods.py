"""Methods of restoration that a config can name, with all their options.

Each is a function (denoise, measurement, y, *, noise_std, ...) -> `Restorer`. What the
run knows is given: `noise_std`, `sigma_data`, `grid`, the noise levels, and `origin`,
the clean data around which the start is noised.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np

from score_sde.checks import known_values
from score_sde.editing import guided
from score_sde.editing.decoupled import DAPS, REDDiff
from score_sde.editing.stepwise import DDRM, DiffPIR, FlowDPS, Restoring
from score_sde.fields import checks_rules, fields_of, takes
from score_sde.measurements import Measurement
from score_sde.rules import Positive, at_least
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


def drawn_by(rule: type[Restoring]) -> Callable[..., Restorer]:
    """Make a method of a step rule, whose options are its own.

    Args:
        rule: (measurement, y, *, noise_std, and its options) -> sampler.
    """

    def restore(
        denoise: Denoise, measurement: Measurement, y: Observation, **options: Any
    ) -> Restorer:
        return Restorer(denoise, rule(measurement, y, **options))

    denoiser, *_ = inspect.signature(restore).parameters.values()
    options = inspect.signature(rule).parameters.values()
    return takes(restore, [denoiser, *options], rule)


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
        offers: `noise_std`, `grid` and `origin`, of which it takes what it wants.
    """
    wanted = fields_of(method, skip=3).keys() & offers.keys()
    return method(denoise, measurement, y, **{name: offers[name] for name in wanted})


def _without_noise(method: str, noise_std: float) -> None:
    """Raise ValueError if a method that knows no noise is given some."""
    known = known_values(noise_std)
    if known is not None and (known > 0).any():
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
    "ddrm": drawn_by(DDRM),
    "diffpir": drawn_by(DiffPIR),
    "flow_dps": drawn_by(FlowDPS),
    "daps": drawn_by(DAPS),
    "red_diff": drawn_by(REDDiff),
}
"""Name -> function; a user's own are added."""
