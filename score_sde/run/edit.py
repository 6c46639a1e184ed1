"""Editing a picture with a trained model: the user's files, and drawing from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from score_sde import conditions, data, editing
from score_sde.data.picture_file import read_picture
from score_sde.guidance import null_condition
from score_sde.measurements import Measurement
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
from score_sde.run.tasks import TASKS, Task
from score_sde.runtime.folder import Arrays
from score_sde.runtime.jobs import BY_EXAMPLE, EVERYWHERE, map_examples
from score_sde.runtime.mesh import divisible
from score_sde.samplers import sample
from score_sde.types import Array, Key, Params, UserError

Shape = tuple[int, ...]


class Given(NamedTuple):
    """The content of the user's files."""

    y: Any
    """The picture in the scale of the data, a batch of one, in NumPy."""
    measurement: Measurement | None
    """How it comes about from what is looked for; None for image to image."""
    shown: Callable[[], Array]
    """y in the shape of an image of the model, a batch of one."""
    origin: Any = None
    """The picture to start from, noised, on the last levels; None for noise alone."""


class Edits(NamedTuple):
    """Results; each field has one entry per result."""

    edited: Array
    """In the scale of the data, [batch, *shape]."""
    num_evals: Array
    """Calls of the denoiser."""


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
    if experiment.model.part is not None:
        raise UserError(
            f"data.name is {experiment.dataset.name!r}; only whole images are edited."
        )
    if images is not experiment.dataset and settings.task != "image_to_image":
        raise UserError(
            f"editing.task is {settings.task!r}; a picture is measured in pixels, and "
            "this run draws latents, which image_to_image alone can start from."
        )
    model = experiment.model._replace(shape=images.shape, num_levels=images.num_levels)
    return _given(TASKS[settings.task], settings, model)


def _given(task: Task, settings: Editing, model: Model) -> Given:
    """Read what a task needs."""
    drawn = _drawn(settings, model) if task.needs_mask else None
    if task.measurement is None:
        y = _given_picture(settings, model, model.shape)
        return Given(y, None, lambda: jnp.asarray(y), origin=y)
    try:
        measurement = task.measurement(settings, model.shape, drawn)
        blank = jax.ShapeDtypeStruct((1, *model.shape), jnp.float32)
        measured = jax.eval_shape(measurement, blank)  # nothing is computed
    except ValueError as error:
        raise UserError(f"editing.task is {settings.task!r}: {error}") from None
    y = _given_measurement(settings, model, measured.shape[1:])
    origin = y if task.starts_from_picture else None
    shown = partial(task.show, measurement, y, model.shape)
    return Given(y, measurement, shown, origin=origin)


def _drawn(settings: Editing, model: Model) -> np.ndarray:
    """Where the mask is white, [height, width, 1]."""
    drawn = _picture("mask", settings.mask, (*model.shape[:2], 1)) >= 0.5
    if not drawn.any():
        raise UserError(
            f"editing.mask: {settings.mask} has nothing white: nothing to draw."
        )
    return drawn


def _given_measurement(settings: Editing, model: Model, shape: Shape) -> Any:
    """Read a measurement of this shape: numbers as they are, or a picture."""
    file = settings.image
    if not file.endswith(".npy"):
        if file and (len(shape) != 3 or shape[-1] not in (1, 3)):
            raise UserError(
                f"editing.image: {file} is a picture, and editing.task "
                f"{settings.task!r} measures shape {shape}: give a .npy file."
            )
        return _given_picture(settings, model, shape)
    try:
        y = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"editing.image: {error}") from None
    if y.shape != shape or y.dtype.kind != "f":
        raise UserError(
            f"editing.image: {file} has {y.dtype} of shape {y.shape}; it must have "
            f"floats of shape {shape}."
        )
    if bad := np.count_nonzero(~(np.abs(y) < np.finfo(np.float32).max)):
        raise UserError(
            f"editing.image: {file} has {bad} numbers that are not finite in float32."
        )
    return y[None].astype(np.float32)


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


def draw_edits(
    experiment: Experiment,
    given: Given,
    params: Params,
    keys: Key,
    cond: Any,
    *,
    offers: Offers = NO_OFFERS,
) -> Edits:
    """Draw one result per key, in the scale of the images.

    Args:
        experiment: with the model, the sampler, the task and the method.
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
    if given.origin is not None:
        start = model.embed(params, jnp.asarray(given.origin, origin.dtype))
        origin = jnp.broadcast_to(start, origin.shape)
        sigmas = editing.tail(sigmas, settings.strength)
    sigmas = jnp.asarray(sigmas, origin.dtype)
    restorer = editing.Restorer(guided_denoiser(model, drawing, params, offers))
    if given.measurement is not None:
        restorer = editing.restore_by(
            experiment.restoration,
            *(restorer.denoise, given.measurement, given.y),
            noise_std=settings.noise_std,
            grid=sigmas,
            origin=origin,
        )
    sampler = restorer.sampler or drawing.sampler
    result = sample(
        bound_sampler(sampler, model, params, cond),
        restorer.denoise,
        editing.noised(keys_start, origin, sigmas[0]),
        sigmas,
        key=keys_path,
        cond=cond,
    )
    x = result.x
    if given.measurement is None:
        x = model.render(params, x, cond)
    elif not settings.noise_std and given.measurement.has_inverse:
        x = editing.keep_measured(x, given.measurement, given.y)
    return Edits(x, jnp.broadcast_to(result.num_evals, len(keys)))


def make_edit(
    experiment: Experiment, given: Given, mesh: Mesh, offers: Offers = NO_OFFERS
) -> tuple[int, Callable[[Params, int], Arrays]]:
    """Compile the drawing of a batch of results; result i is a function of (seed, i).

    Args:
        experiment: whose picture is edited.
        given: the picture, and how it came about.
        mesh: devices, each of which draws its share.
        offers: what the companions that guide offer.

    Returns:
        (size, draw): draw(params, first) gives results first, first + 1, ... by size,
        the fields of `Edits`.
    """
    wanted = min(experiment.sampling.batch_size, experiment.editing.num_samples)
    size = divisible(wanted, mesh)
    function = partial(draw_edits, experiment, given, offers=offers)
    compiled = map_examples(function, mesh, EVERYWHERE, BY_EXAMPLE, BY_EXAMPLE)

    def draw(params: Params, first: int) -> Arrays:
        index = np.arange(first, first + size)
        cond = _stated_conditions(experiment.model, index)
        keys = sample_keys(experiment.seed, first, size)
        return jax.device_get(compiled(params, keys, cond))._asdict()

    return size, draw


def _stated_conditions(model: Model, index: np.ndarray) -> Any:
    """The conditions that the config states for samples, and no others."""
    blank = conditions.of_blank(model.conditions, model.row_shape)
    cond: Any = null_condition(blank)
    for condition in model.conditions:
        cond |= condition.samples or {}
    return conditions.in_turn(cond, index)
