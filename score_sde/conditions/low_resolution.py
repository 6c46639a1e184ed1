"""A small picture of the image as a condition: super-resolution, and cascades.

The small picture y is made bigger by a linear resize and stands beside the noisy image,
as channels that no preconditioner scales (Saharia et al. 2021). In a cascade the second
stage is trained on true y and then told drawn ones; noise in both hides what the first
stage does badly (Ho et al. 2022), at a level that the network is told:

    y_s = y + s n        s = 0, or (101^u - 1) / 100 s_max with u uniform

It is told the share u of its scale of levels, 0 for none, in a channel.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import example_keys, expand_like, per_example, where_example
from score_sde.conditions.condition import (
    Cond,
    Condition,
    Rows,
    SmallPicture,
    stated,
)
from score_sde.data import WAYS, Dataset, Shrinking, centres
from score_sde.data.picture_file import read_picture
from score_sde.measurements import JPEG
from score_sde.resizing import RESIZES, resized
from score_sde.rules import NonNegative, Share, at_least, one_of, within
from score_sde.types import Array, Key

BASE = 101.0
"""Ratio of the steepest to the flattest part of the scale of noise levels, and 1."""
BLUR_STDS = (0.4, 0.6)
"""Standard deviations in pixels of the blur of Ho et al. 2022, uniform in between."""


def level_of_share(share: Array, *, highest: float) -> Array:
    """The noise level at a share of the scale, from 0 to the highest."""
    return highest * jnp.expm1(math.log(BASE) * share) / (BASE - 1)


def share_of_level(level: Any, *, highest: float) -> Array:
    """The share of the scale at which a noise level is: undo `level_of_share`."""
    return jnp.log1p((BASE - 1) * jnp.asarray(level) / highest) / math.log(BASE)


def noised(keys: Key, y: Array, level: Array) -> Array:
    """Pictures with Gaussian noise of a level each; level 0 leaves y as it is.

    Args:
        keys: one key, or one per example.
        y: [batch, ...].
        level: standard deviations, a scalar or [batch].
    """
    noise = per_example(jr.normal, example_keys(keys, len(y)), y)
    return y + expand_like(level, y) * noise


def blurred(y: Array, std: Array) -> Array:
    """Pictures blurred by a Gaussian of 3 x 3 pixels, with their edges repeated.

    Args:
        y: [batch, height, width, channels].
        std: of the Gaussian in pixels, > 0, [batch].
    """
    side = jnp.exp(-0.5 / std**2)
    outer, middle = (
        expand_like(a / (1 + 2 * side), y) for a in (side, jnp.ones_like(side))
    )
    for axis in (1, 2):
        widths = [(1, 1) if i == axis else (0, 0) for i in range(y.ndim)]
        padded, size = jnp.pad(y, widths, mode="edge"), y.shape[axis]
        before, after = (
            jax.lax.slice_in_dim(padded, first, first + size, axis=axis)
            for first in (0, 2)
        )
        y = middle * y + outer * (before + after)
    return y


def low_resolution(
    *,
    dataset: Dataset,
    factor: Annotated[int, at_least(2)] = 2,
    method: Annotated[str, one_of(WAYS)] = "mean",
    quality: Annotated[int, within(0, 100)] = 0,
    num_levels: Annotated[int, within(0, 256)] = 0,
    resize: Annotated[str, one_of(RESIZES)] = "bicubic",
    noise: Annotated[float, NonNegative] = 0.0,
    share_without_noise: Annotated[float, Share] = 0.1,
    share_blurred: Annotated[float, Share] = 0.0,
    level: Annotated[float, NonNegative] = 0.0,
    truncated: bool = False,
    is_marked: bool = True,
    samples: tuple[str, ...] = (),
) -> Condition:
    """A small picture of the image, {"image": [batch, height, width, channels + ...]}.

    Behind its channels stand one of the noise level, if there is any in training, and
    one of ones, if it is marked. What is scored is told it without noise.

    Args:
        dataset: images of levels.
        factor: by which both sides are divided.
        method: 'mean' over blocks, or a kernel with antialiasing.
        quality: of a JPEG file that it went through; 0 for none.
        num_levels: grey levels that it is rounded to, as a first stage; 0 for none.
        resize: how it is made as big as the image again.
        noise: the highest level of noise in training, of data from -1 to 1; 0 for none.
        share_without_noise: the share of training examples without noise.
        share_blurred: the share that is blurred besides, which the network is not told.
        level: of the noise in sampling.
        truncated: whether an earlier stage stops at it, so that no noise is added.
        is_marked: whether a channel of ones tells it from none, for condition dropout.
        samples: small picture files, told in turn; () for those of held-out images.

    Raises: ValueError for data without levels, sides that are no multiples of the
        factor, and levels above those of training.
    """
    if len(dataset.shape) != 3 or dataset.num_levels is None:
        raise ValueError(f"{dataset.name} are no images of grey levels.")
    made = Shrinking(dataset.shape, dataset.num_levels, factor, method, num_levels)
    _check_levels(made, quality, noise, level, truncated)
    maker, stop = _Maker(made, quality, resize, noise, is_marked), truncated * level
    return Condition(
        lambda rows: maker.told(maker.small(rows)),
        partial(maker.in_training, clean=share_without_noise, blurry=share_blurred),
        samples=stated(maker.stated, samples),
        state=maker.stated,
        describes_values=True,
        small=SmallPicture(
            made.small,
            maker.small,
            partial(_of_drawn, maker, stop),
            partial(_unlike, made),
            stop / made.slope if stop else 0.0,
        ),
        has_null=is_marked,
        in_sampling=partial(maker.noised_entry, level=level) if level else None,
    )


def _check_levels(
    made: Shrinking, quality: int, noise: float, level: float, truncated: bool
) -> None:
    """Refuse levels of noise, and a quality, that small pictures can't have.

    Raises: ValueError.
    """
    if level > noise:
        raise ValueError(f"level is {level}; it must be at most noise, {noise}.")
    if truncated and not level:
        raise ValueError("truncated is True; it needs a level, at which to stop.")
    if truncated and not made.num_levels:
        raise ValueError(
            "truncated is True; num_levels must state the levels of the earlier stage."
        )
    if quality and any(side % 8 for side in made.small_shape[:2]):
        raise ValueError(
            f"quality is {quality}; JPEG needs small pictures in blocks of 8, not "
            f"{made.small_shape[:2]}."
        )


def _of_drawn(maker: _Maker, level: float, points: Array) -> Cond:
    """The entry of drawn pictures; of those that end at a level, with their noise."""
    made = maker.shrinking
    points = jnp.asarray(points)
    if level:
        # Their scale is that of their own levels, whose ends lie elsewhere.
        return maker.told(made.slope * points + _offset(made), level)
    last = made.num_levels - 1
    k = jnp.clip(jnp.floor((points + 1) * (made.num_levels / 2)), 0, last)
    return maker.told(made.from_levels(k))


def _unlike(made: Shrinking, earlier: Dataset) -> str | None:
    """Why an earlier stage of these data does not draw such small pictures."""
    wanted = made.small_shape, made.num_levels or None
    if (earlier.shape, earlier.num_levels) == wanted:
        return None
    return (
        f"it draws {earlier.shape} with {earlier.num_levels} levels, and "
        f"conditions.low_resolution tells {wanted[0]} with {wanted[1]}"
    )


def _offset(made: Shrinking) -> float:
    """The middle of the first stage's scale, in that of the images."""
    black = float(made.from_levels(np.zeros(1))[0])
    return black - made.slope * (1 / made.num_levels - 1)


class _Maker:
    """Small pictures, and the entries of them."""

    def __init__(
        self,
        shrinking: Shrinking,
        quality: int,
        resize: str,
        noise: float,
        marked: bool,
    ):
        self.shrinking, self.resize, self.noise = shrinking, resize, noise
        self.marked, self.file = marked, JPEG(quality) if quality else None

    def small(self, rows: Rows) -> Any:
        """The small pictures of examples, in the scale of the images."""
        made = self.shrinking
        y = made.small(centres(rows["values"], num_levels=made.image_levels))
        if self.file is not None:
            y = y.__array_namespace__().asarray(self.file(jnp.asarray(y)))
        return made.rounded(y)

    def told(self, y: Any, level: Any = 0.0) -> Cond:
        """The entry of small pictures with noise of this level in them."""
        xp = y.__array_namespace__()
        height, width, _ = self.shrinking.shape
        big = resized(y, (height, width), self.resize)
        one = xp.ones_like(big[..., :1])
        parts = [big]
        if self.noise:
            share = share_of_level(level, highest=self.noise).astype(y.dtype)
            parts.append(one * xp.asarray(expand_like(share, one)))
        if self.marked:
            parts.append(one)
        return {"image": xp.concatenate(parts, -1)}

    def stated(self, value: Any) -> Cond:
        """The entry of a picture file."""
        made = self.shrinking
        try:
            pixels = read_picture(Path(value), made.small_shape)
        except (OSError, TypeError) as error:
            raise ValueError(str(error)) from None
        whole = pixels[None] * (made.image_levels - 1)
        return self.told(centres(whole, num_levels=made.image_levels))

    def in_training(self, key: Key, rows: Rows, *, clean: float, blurry: float) -> Cond:
        """The entry of examples: perhaps blurred, at a random level of noise."""
        y = jnp.asarray(self.small(rows))
        key_blur, key_std, key_level, key_clean, key_noise = jr.split(key, 5)

        def uniform(key: Key) -> Array:
            return jax.vmap(lambda k: jr.uniform(k, (), y.dtype))(
                example_keys(key, len(y))
            )

        if blurry:
            low, high = BLUR_STDS
            std = low + (high - low) * uniform(key_std)
            y = where_example(uniform(key_blur) < blurry, blurred(y, std), y)
        if not self.noise:
            return self.told(y)
        share = jnp.where(uniform(key_clean) < clean, 0.0, uniform(key_level))
        level = level_of_share(share, highest=self.noise)
        return self.told(noised(key_noise, y, level), level)

    def noised_entry(self, keys: Key, cond: Cond, *, level: float) -> Cond:
        """The entry with noise of a level: resizes are linear, so that it is added."""
        image, shape = cond["image"], self.shrinking.small_shape
        y = jnp.zeros((len(image), *shape), image.dtype)
        noise = self.told(noised(keys, y, jnp.asarray(level, y.dtype)), level)["image"]
        channels = shape[-1]
        both = image[..., :channels] + noise[..., :channels]
        is_told = image[..., -1:] if self.marked else 1.0
        parts = [both * is_told, noise[..., channels : channels + 1] * is_told]
        return {"image": jnp.concatenate([*parts, image[..., channels + 1 :]], -1)}


def coarse(*, dataset: Dataset) -> Condition:
    """The coarse image beside which details are drawn, {"image": [batch, ...]}.

    It is that of the very point of the image whose details are drawn or scored, so that
    densities of the stages multiply.

    Args:
        dataset: details of the source 'wavelet'.

    Raises:
        ValueError: for other data.
    """
    part = dataset.part
    if part is None or part.told is None:
        raise ValueError(
            f"it is for details of images, data.name 'wavelet', not for {dataset.name}."
        )
    told, levels = part.told, part.images.num_levels

    def of_examples(rows: Rows) -> Cond:
        return {"image": told(centres(rows["values"], num_levels=levels))}

    return Condition(
        of_examples,
        lambda key, rows: of_examples(rows),
        describes_values=True,
        of_points=lambda x: {"image": told(x)},
        has_null=False,
        small=SmallPicture(
            told,
            lambda rows: of_examples(rows)["image"],
            lambda x: {"image": jnp.asarray(x)},
            partial(_other_details, dataset),
        ),
    )


def _other_details(dataset: Dataset, earlier: Dataset) -> str | None:
    """Why an earlier stage of these data does not draw the coarse image of details."""
    height, width, channels = dataset.shape
    wanted, own, part = (height, width, channels // 3), dataset.part, earlier.part
    assert own is not None
    is_finer = part is not None and earlier.shown.shape == wanted
    if is_finer and part.images.format == own.images.format:  # type: ignore[union-attr]
        return None
    return (
        f"it is of {earlier.name} that make up {earlier.shown.shape}; these details "
        f"stand beside the coarse image of shape {wanted}, of source 'wavelet' too"
    )
