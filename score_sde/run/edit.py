"""Editing a picture with a trained model: each task, and the methods that do it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import conditions, data, editing
from score_sde.data.picture_file import read_picture
from score_sde.guidance import null_condition
from score_sde.measurements import (
    Blur,
    Downsample,
    Grey,
    Mask,
    Measurement,
    gaussian_kernel,
)
from score_sde.run.experiment import Experiment
from score_sde.run.model import Model
from score_sde.run.sample import (
    NO_OFFERS,
    Offers,
    bound_sampler,
    guided_denoiser,
    sample_keys,
)
from score_sde.run.settings import Editing
from score_sde.samplers import sample
from score_sde.types import Array, Denoise, Key, Params, UserError

Shape = tuple[int, ...]


class Given(NamedTuple):
    """What the user's files say."""

    y: Any
    """The picture in the scale of the data, a batch of one, in NumPy."""
    measurement: Measurement | None
    """How it comes about from what is looked for; None for image to image."""
    shown: Callable[[], Array]
    """y in the shape of an image of the model, a batch of one."""


def read(experiment: Experiment) -> Given:
    """Read the files of the config's section `editing`.

    Raises:
        UserError: for a missing file, one that is no picture, one of another size than
            the model's, a mask with nothing to draw.
    """
    settings, images = experiment.editing, experiment.shown
    if len(images.shape) != 3 or images.num_levels is None:
        raise UserError(
            f"{experiment.dataset.name} are points; only images are edited."
        )
    if images is not experiment.dataset and settings.task != "image_to_image":
        raise UserError(
            f"editing.task is {settings.task!r}; a picture is measured in pixels, and "
            "this run draws latents, which image_to_image alone can start from."
        )
    model = experiment.model._replace(shape=images.shape, num_levels=images.num_levels)
    return TASKS[settings.task](settings, model)


def _image_to_image(settings: Editing, model: Model) -> Given:
    y = _given_picture(settings, model, model.shape)
    return Given(y, None, lambda: jnp.asarray(y))


def _inpaint(settings: Editing, model: Model) -> Given:
    drawn = _picture("mask", settings.mask, (*model.shape[:2], 1)) >= 0.5
    if not drawn.any():
        raise UserError(
            f"editing.mask: {settings.mask} has nothing white: nothing to draw."
        )
    y, mask = _given_picture(settings, model, model.shape), Mask(~drawn)
    return Given(y, mask, lambda: mask(y))


def _colourise(settings: Editing, model: Model) -> Given:
    y = _given_picture(settings, model, (*model.shape[:2], 1))
    return Given(y, Grey(), lambda: Grey().pseudo_inverse(y))


def _super_resolve(settings: Editing, model: Model) -> Given:
    height, width, channels = model.shape
    if height % settings.factor or width % settings.factor:
        raise UserError(
            f"editing.factor is {settings.factor}; it must divide the sides of the "
            f"model's images, {(height, width)}."
        )
    small = (height // settings.factor, width // settings.factor, channels)
    y, measurement = _given_picture(settings, model, small), Downsample(settings.factor)
    return Given(y, measurement, lambda: measurement.pseudo_inverse(y))


def _deblur(settings: Editing, model: Model) -> Given:
    y = _given_picture(settings, model, model.shape)
    size = min(*model.shape[:2], 2 * int(np.ceil(3 * settings.blur_std)) + 1)
    blur = Blur(gaussian_kernel(size, settings.blur_std))
    return Given(y, blur, lambda: jnp.asarray(y))


TASKS: dict[str, Callable[[Editing, Model], Given]] = {
    "image_to_image": _image_to_image,
    "inpaint": _inpaint,
    "colourise": _colourise,
    "super_resolve": _super_resolve,
    "deblur": _deblur,
}
"""What `editing.task` may be -> how its files are read."""


def _given_picture(settings: Editing, model: Model, shape: Shape) -> Any:
    """The user's picture in the scale of the data: black and white are outer levels."""
    picture, levels = _picture("image", settings.image, shape), model.num_levels
    assert levels is not None  # `read` refuses others
    # In NumPy: the files are read before any device is started.
    return np.asarray(data.centres(picture[None] * (levels - 1), num_levels=levels))


def _picture(field: str, file: str, shape: Shape) -> np.ndarray:
    if not file:
        raise UserError(
            f"editing.{field} is missing: give --config.editing.{field}=FILE."
        )
    try:
        return read_picture(Path(file), shape)
    except (OSError, ValueError) as error:
        raise UserError(f"editing.{field}: {error}") from None


def restorer(
    settings: Editing,
    denoise: Denoise,
    given: Given,
    *,
    sigma_data: float,
    sigmas: Array,
) -> Denoise:
    """The denoiser of what the picture was made from, by the method of the settings.

    Args:
        settings: of the config.
        denoise: the model's denoiser.
        given: the picture, and how it came about.
        sigma_data: standard deviation of the scaled data.
        sigmas: the grid.
    """
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
    return method(denoise, given.measurement, given.y, **options[settings.method])


def draw_edits(
    experiment: Experiment,
    given: Given,
    params: Params,
    keys: Key,
    cond: Any,
    *,
    offers: Offers = NO_OFFERS,
) -> Array:
    """Draw one result per key, [batch, *image], in the scale of the images.

    Args:
        experiment: with the model, the sampler and the task.
        given: the picture, and how it came about.
        params: of the model, with those of the companions that guide.
        keys: [batch].
        cond: what each is told, or None.
        offers: what the companions offer.
    """
    model, drawing, settings = experiment.model, experiment.drawing, experiment.editing
    sigmas = drawing.grid()
    keys_start, keys_path = jax.vmap(jax.random.split, out_axes=1)(keys)
    origin = jnp.zeros((len(keys), *model.shape), jnp.float32)
    if given.measurement is None:
        start = model.embed(params, jnp.asarray(given.y, origin.dtype))
        origin = jnp.broadcast_to(start, origin.shape)
        sigmas = editing.tail(sigmas, settings.strength)
    sigmas = jnp.asarray(sigmas, origin.dtype)
    denoise = restorer(
        settings,
        guided_denoiser(model, drawing, params, offers),
        given,
        sigma_data=model.sigma_data,
        sigmas=sigmas,
    )
    x = sample(
        bound_sampler(drawing.sampler, model, params, cond),
        denoise,
        editing.noised(keys_start, origin, sigmas[0]),
        sigmas,
        key=keys_path,
        cond=cond,
    ).x
    if given.measurement is None or settings.noise_std:
        return model.render(params, x)
    return editing.keep_measured(x, given.measurement, given.y)


def edit(
    experiment: Experiment, given: Given, params: Params, offers: Offers = NO_OFFERS
) -> np.ndarray:
    """Draw all results of the settings; result i is a function of (seed, i)."""
    count = experiment.editing.num_samples
    run = jax.jit(partial(draw_edits, experiment, given, offers=offers))
    cond = _stated_conditions(experiment.model, np.arange(count))
    return np.asarray(run(params, sample_keys(experiment.seed, 0, count), cond))


def _stated_conditions(model: Model, index: np.ndarray) -> Any:
    """What the config states for samples, and otherwise nothing."""
    blank = conditions.of_blank(model.conditions, model.shape)
    cond: Any = null_condition(blank)
    for condition in model.conditions:
        cond |= condition.samples or {}
    return conditions.in_turn(cond, index)
