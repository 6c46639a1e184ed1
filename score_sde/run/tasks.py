"""Tasks of editing: how the picture that a user has came about, by name.

`TASKS` is open, as all registries are: a measurement of one's own, such as an operator
that is given by what it does, is a `Task` that a module of `parts` adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from score_sde.measurements import (
    JPEG,
    Blur,
    Downsample,
    Grey,
    Mask,
    Measurement,
    gaussian_kernel,
)
from score_sde.types import Array

if TYPE_CHECKING:  # its field `task` is one of those that are registered here
    from score_sde.run.settings import Editing

Shape = tuple[int, ...]


class Task(NamedTuple):
    """The way in which a picture came about from what is looked for."""

    measurement: Callable[[Editing, Shape, np.ndarray | None], Measurement] | None
    """(settings, shape of an image of the model, what is to be drawn) -> A; None for
    image to image. What is to be drawn is true there, [height, width, 1], or None
    without a mask. It may raise ValueError."""
    needs_mask: bool = False
    """Whether the user says by `editing.mask` what is to be drawn."""
    starts_from_picture: bool = False
    """Whether the picture, noised, is the start, on the last `editing.strength` of the
    levels."""
    shown: Callable[[Measurement, Any], Array] | None = None
    """(A, y) -> y in the shape of an image, for the picture of results. None for y
    itself, if it has that shape, for its pseudo-inverse, or for nothing."""

    def show(self, measurement: Measurement, y: Any, shape: Shape) -> Array:
        """y in the shape of an image, a batch of one."""
        if self.shown is not None:
            return self.shown(measurement, y)
        if y.shape[1:] == shape:
            return jnp.asarray(y)
        if measurement.has_inverse:
            return measurement.pseudo_inverse(jnp.asarray(y))
        return jnp.zeros((1, *shape), y.dtype)


def _outside(settings: Editing, shape: Shape, drawn: np.ndarray | None) -> Measurement:
    del settings
    return Mask(np.ones(shape[:2] + (1,)) if drawn is None else ~drawn)


def _smaller(settings: Editing, shape: Shape, drawn: np.ndarray | None) -> Measurement:
    del drawn
    if any(side % settings.factor for side in shape[:2]):
        raise ValueError(
            f"editing.factor is {settings.factor}; it must divide the sides of the "
            f"model's images, {shape[:2]}."
        )
    return Downsample(settings.factor)


def _blurred(settings: Editing, shape: Shape, drawn: np.ndarray | None) -> Measurement:
    del drawn
    size = min(*shape[:2], 2 * int(np.ceil(3 * settings.blur_std)) + 1)
    return Blur(gaussian_kernel(size, settings.blur_std))


TASKS: dict[str, Task] = {
    "image_to_image": Task(None, starts_from_picture=True),
    "inpaint": Task(_outside, needs_mask=True, shown=lambda mask, y: mask(y)),
    # The masked part starts from what is painted there (Meng et al. 2022).
    "stroke": Task(_outside, needs_mask=True, starts_from_picture=True),
    "colourise": Task(lambda settings, shape, drawn: Grey()),
    "super_resolve": Task(_smaller),
    "deblur": Task(_blurred),
    "jpeg": Task(lambda settings, shape, drawn: JPEG(settings.quality)),
}
"""What `editing.task` may be; a user's own are added."""
