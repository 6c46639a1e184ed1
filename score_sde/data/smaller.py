"""Smaller pictures of images: those that a first stage draws, and a second is told.

A picture of factor x factor fewer pixels is a mean over blocks, or is made by a kernel
with antialiasing, and is rounded to grey levels, as if it came from a file. Both stages
of a cascade use the functions of one `Shrinking`, so that the second one is told what
the first one draws.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from score_sde.data.dataset import Dataset, Examples, Rows
from score_sde.data.identity import described, digest_of_json, identity
from score_sde.data.scaling import centres
from score_sde.resizing import RESIZES, resized
from score_sde.types import choices_text

WAYS = tuple(name for name in RESIZES if name != "nearest")
"""How images may be made smaller; see `resizing.RESIZES`."""


@dataclasses.dataclass(frozen=True)
class Shrinking:
    """How images of levels are made smaller.

    Attributes:
        shape: of an image.
        image_levels: grey levels of the images.
        factor: by which both sides are divided.
        method: a name in `WAYS`.
        num_levels: grey levels that the small pictures are rounded to; 0 for none, so
            that they stay as they are.

    Raises:
        ValueError: for a factor that does not divide the sides, and an unknown method.
    """

    shape: tuple[int, ...]
    image_levels: int
    factor: int
    method: str
    num_levels: int

    def __post_init__(self) -> None:
        if self.method not in WAYS:
            raise ValueError(
                f"method is {self.method!r}{choices_text(self.method, WAYS)}."
            )
        if self.shape[0] % self.factor or self.shape[1] % self.factor:
            raise ValueError(
                f"factor is {self.factor}; it must divide the sides, {self.shape[:2]}."
            )
        if self.num_levels and not 2 <= self.num_levels <= 256:
            raise ValueError(
                f"num_levels is {self.num_levels}; it must be from 2 to 256, or 0 for "
                "pictures that are not rounded."
            )

    @property
    def small_shape(self) -> tuple[int, ...]:
        """The shape of a small picture."""
        height, width, channels = self.shape
        return height // self.factor, width // self.factor, channels

    def small(self, x: Any) -> Any:
        """Small pictures of images in the scale of the data, not rounded."""
        height, width, _ = self.small_shape
        return resized(x, (height, width), self.method)

    def to_levels(self, y: Any) -> Any:
        """The grey levels of small pictures in the scale of the images."""
        xp, last = y.__array_namespace__(), self.num_levels - 1
        share = ((y + 1) * self.image_levels - 1) / (2 * (self.image_levels - 1))
        return xp.clip(xp.floor(share * last + 0.5), 0, last).astype(np.uint8)

    def from_levels(self, levels: Any) -> Any:
        """Small pictures of these grey levels, in the scale of the images."""
        share = levels.astype(np.float32) / (self.num_levels - 1)
        return (2 * share * (self.image_levels - 1) + 1) / self.image_levels - 1

    def rounded(self, y: Any) -> Any:
        """Small pictures at the nearest of their levels, if they have any."""
        if not self.num_levels:
            return y
        return self.from_levels(self.to_levels(y)).astype(y.dtype)

    @property
    def slope(self) -> float:
        """The slope from the own scale of small pictures to that of the images.

        Their own scale is that of `scaling.centres` of their levels.
        """
        shares = (self.image_levels - 1) / self.image_levels
        return shares * self.num_levels / (self.num_levels - 1)


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """Examples that are made smaller when they are read."""

    images: Examples
    shrinking: Shrinking

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        rows = self.images[index]
        x = centres(rows["values"], num_levels=self.shrinking.image_levels)
        small = self.shrinking.to_levels(self.shrinking.small(np.asarray(x)))
        return {**rows, "values": small}


def smaller(images: Dataset, factor: int, method: str, num_levels: int) -> Dataset:
    """Make the data set of the small pictures of images.

    Args:
        images: of levels.
        factor: by which both sides are divided.
        method: a name in `WAYS`.
        num_levels: grey levels that the small pictures are rounded to; 0 for as many as
            the images have.

    Raises:
        ValueError: for data that are no images of levels, and what `Shrinking` refuses.
    """
    if len(images.shape) != 3 or images.num_levels is None:
        raise ValueError(f"{images.name} are no images of grey levels.")
    levels = num_levels or images.num_levels
    made = Shrinking(images.shape, images.num_levels, factor, method, levels)
    return Dataset(
        "smaller",
        made.small_shape,
        levels,
        images.num_classes,
        partial(_open, images, made),
        identify=partial(_identify, images, made),
    )


def _open(images: Dataset, made: Shrinking, split: str) -> Shrunk:
    return Shrunk(images.split(split), made)


def _identify(images: Dataset, made: Shrinking, dataset: Dataset) -> dict[str, Any]:
    known = identity(images)
    digest = digest_of_json([known["digest"], dataclasses.astuple(made)])
    return described(dataset, known["counts"], digest)
