"""A picture edited by a trained model: what `experiments.edit` runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import conditions, data, editing
from score_sde.evaluation.plots import read_picture
from score_sde.guidance import null_condition
from score_sde.measurements import (
    Blur,
    Downsample,
    Grey,
    Mask,
    Measurement,
    gaussian_kernel,
)
from score_sde.run.evaluation_settings import Editing
from score_sde.run.inference import sample_keys
from score_sde.run.model import Experiment, bound_sampler, guided_denoiser
from score_sde.samplers import sample
from score_sde.types import Array, Denoise, Key, UserError

Params = Any


class Given(NamedTuple):
    """What the user's files say."""

    y: Any
    """The picture in the scale of the data, a batch of one, in NumPy."""
    measurement: Measurement | None
    """How it comes about from what is looked for; None for image to image."""


def read(experiment: Experiment) -> Given:
    """Read the files of the config's section `editing`.

    Raises: UserError for a missing file, one that is no picture, one of another size
    than the model's, a mask with nothing to draw.
    """
    settings = experiment.editing
    height, width, channels = _image_shape(experiment)
    if settings.task == "colourise":
        channels = 1
    if settings.task == "super_resolve":
        if height % settings.factor or width % settings.factor:
            raise UserError(
                f"editing.factor is {settings.factor}; it must divide the sides of the "
                f"model's images, {(height, width)}."
            )
        height, width = height // settings.factor, width // settings.factor
    shape = (height, width, channels)
    y = _to_data(experiment, _picture("image", settings.image, shape))
    return Given(y, _measurement(settings, shape))


def _image_shape(experiment: Experiment) -> tuple[int, ...]:
    shape = experiment.dataset.shape
    if len(shape) != 3:
        raise UserError(
            f"{experiment.dataset.name} are points; only images are edited."
        )
    return shape


def _picture(field: str, file: str, shape: tuple[int, ...]) -> np.ndarray:
    if not file:
        raise UserError(
            f"editing.{field} is missing: give --config.editing.{field}=FILE."
        )
    try:
        return read_picture(Path(file), shape)
    except (OSError, ValueError) as error:
        raise UserError(f"editing.{field}: {error}") from None


def _to_data(experiment: Experiment, picture: Any) -> Any:
    """From [0, 1] to the scale of the data: black and white are the outer levels."""
    levels = experiment.dataset.num_levels
    assert levels is not None  # images have levels
    # In NumPy: the files are read before any device is started.
    return np.asarray(data.centres(picture[None] * (levels - 1), num_levels=levels))


def _measurement(settings: Editing, shape: tuple[int, ...]) -> Measurement | None:
    if settings.task == "inpaint":
        drawn = _picture("mask", settings.mask, (*shape[:2], 1)) >= 0.5
        if not drawn.any():
            raise UserError(
                f"editing.mask: {settings.mask} has nothing white: nothing to draw."
            )
        return Mask(~drawn)
    if settings.task == "colourise":
        return Grey()
    if settings.task == "super_resolve":
        return Downsample(settings.factor)
    if settings.task == "deblur":
        size = min(*shape[:2], 2 * int(np.ceil(3 * settings.blur_std)) + 1)
        return Blur(gaussian_kernel(size, settings.blur_std))
    return None


def restorer(
    settings: Editing,
    denoise: Denoise,
    given: Given,
    *,
    sigma_data: float,
    sigmas: Array,
) -> Denoise:
    """The denoiser of what the picture was made from, by the method of the settings."""
    if given.measurement is None:
        return denoise
    noise = {"noise_std": settings.noise_std}
    options: dict[str, dict[str, Any]] = {
        "replace": {},
        "pseudo_inverse": noise | {"sigma_data": sigma_data},
        "moment_matching": noise,
        "dps": {"sigmas": sigmas},
    }
    method = getattr(editing, settings.method)
    y, measurement = given
    return method(denoise, measurement, y, **options[settings.method])


def draw_edits(
    experiment: Experiment, given: Given, params: Params, keys: Key, cond: Any
) -> Array:
    """One result per key, [batch, *shape], in the scale of the data."""
    settings, sigmas = experiment.editing, experiment.grid()
    count, shape = len(keys), experiment.dataset.shape
    keys_start, keys_path = jax.vmap(jax.random.split, out_axes=1)(keys)
    origin = jnp.zeros((count, *shape), jnp.float32)
    if given.measurement is None:
        origin = jnp.broadcast_to(given.y, origin.shape)
        sigmas = editing.tail(sigmas, settings.strength)
    sigmas = jnp.asarray(sigmas, origin.dtype)
    denoise = restorer(
        settings,
        guided_denoiser(experiment, params),
        given,
        sigma_data=experiment.data.sigma_data,
        sigmas=sigmas,
    )
    x = sample(
        bound_sampler(experiment, params, cond),
        denoise,
        editing.noised(keys_start, origin, sigmas[0]),
        sigmas,
        key=keys_path,
        cond=cond,
    ).x
    if given.measurement is None or settings.noise_std:
        return x
    return editing.keep_measured(x, given.measurement, given.y)


def edited(experiment: Experiment, given: Given, params: Params) -> np.ndarray:
    """All results of the settings; result i is a function of (seed, i)."""
    count = experiment.editing.num_samples
    run = jax.jit(partial(draw_edits, experiment, given))
    cond = _wanted(experiment, np.arange(count))
    return np.asarray(run(params, sample_keys(experiment.seed, 0, count), cond))


def _wanted(experiment: Experiment, index: np.ndarray) -> Any:
    """What results are told: what the config states, and otherwise nothing."""
    cond: Any = null_condition(
        conditions.of_blank(experiment.conditions, experiment.dataset.shape)
    )
    for condition in experiment.conditions:
        cond |= condition.stated or {}
    return conditions.in_turn(cond, index)


def before(given: Given, shape: tuple[int, ...]) -> Array:
    """What was given, in the shape of an image of the model."""
    if isinstance(given.measurement, Mask):
        return given.measurement(given.y)
    if isinstance(given.measurement, Downsample | Grey):
        return given.measurement.pseudo_inverse(given.y)
    return jnp.broadcast_to(given.y, (1, *shape))
