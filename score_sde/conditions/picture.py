"""A picture made of an image, as a condition."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from score_sde.conditions.condition import Cond, Condition, Rows, constant, stated
from score_sde.data import Dataset, centres
from score_sde.data.picture_file import read_picture
from score_sde.measurements import Downsample
from score_sde.rules import at_least
from score_sde.types import choices_text


def small(x: Any, *, factor: int = 2) -> Any:
    """Means over blocks of factor x factor pixels, each as large as its block.

    Raises: ValueError unless the factor divides the sides of x.
    """
    if x.shape[1] % factor or x.shape[2] % factor:
        raise ValueError(
            f"factor is {factor}; it must divide the sides, {tuple(x.shape[1:3])}."
        )
    return Downsample(factor)(x).repeat(factor, axis=1).repeat(factor, axis=2)


def silhouette(x: Any, *, factor: int = 2) -> Any:
    """1 where the mean over colours is above the middle, -1 elsewhere."""
    del factor
    bright = (x.mean(-1, keepdims=True) > 0).astype(x.dtype)
    return 2 * bright - 1


IMAGES: dict[str, Callable[..., Any]] = {"small": small, "silhouette": silhouette}
"""Name -> (images in [-1, 1], factor) -> pictures of the same sides."""


def image(
    *,
    dataset: Dataset,
    picture: str,
    factor: Annotated[int, at_least(1)] = 2,
    samples: tuple[str, ...] = (),
) -> Condition:
    """A picture of the image, {"image": [batch, height, width, channels + 1]}.

    A channel of ones stands behind it.

    Args:
        dataset: images of levels.
        picture: how it is made of the image, a name in `IMAGES`.
        factor: the side of the blocks of 'small', in pixels.
        samples: picture files of the size of the images, from each of which a picture
            is made for samples in turn; () for those of held-out images.

    Raises:
        ValueError: for an unknown name, other data than images of levels, a factor that
            does not divide the sides, and a file that is no picture of that size.
    """
    if picture not in IMAGES:
        raise ValueError(f"picture is {picture!r}{choices_text(picture, IMAGES)}.")
    if len(dataset.shape) != 3 or dataset.num_levels is None:
        raise ValueError(f"picture is {picture!r}; {dataset.name} are no images.")
    make, levels = partial(IMAGES[picture], factor=factor), dataset.num_levels
    make(np.zeros((1, *dataset.shape), np.float32))

    def of_examples(rows: Rows) -> Cond:
        made = make(centres(rows["values"], num_levels=levels))
        xp = made.__array_namespace__()
        return {"image": xp.concatenate([made, xp.ones_like(made[..., :1])], -1)}

    def state(value: Any) -> Cond:
        try:
            pixels = read_picture(Path(value), dataset.shape)
        except (OSError, TypeError) as error:
            raise ValueError(str(error)) from None
        return of_examples({"values": pixels[None] * (levels - 1)})

    return constant(
        of_examples,
        samples=stated(state, samples),
        state=state,
        describes_values=True,
    )
