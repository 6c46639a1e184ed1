"""Augmentation that does not leak into samples (Karras et al. 2022, app. F.2).

Each image is transformed at random, and the network is told how by 9 numbers, all zero
for an image left alone, which is what samples are drawn with.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import example_keys
from score_sde.types import Array, Key

NUM_LABELS = 9
SCALE, STRETCH, SHIFT = 0.2, 0.2, 0.125
"""Standard deviations of the log2 of sizes, and of shifts in units of the side."""


class Warp(NamedTuple):
    """The transformation of one image; all numbers are 0 if it is left alone.

    Attributes:
        flip_x: 1 to mirror left and right, else 0.
        flip_y: 1 to mirror top and bottom, else 0.
        scale: both axes grow by 2^(0.2 scale).
        angle: the image turns by this angle, in radians.
        stretch: one axis grows by 2^(0.2 stretch), the other by the inverse.
        direction: angle of the first of these axes, in radians.
        shift: [2], to the right and down, in units of 0.125 of the side.
    """

    flip_x: Array
    flip_y: Array
    scale: Array
    angle: Array
    stretch: Array
    direction: Array
    shift: Array

    def labels(self) -> Array:
        """Make the 9 numbers that the network is told, with no jump at any angle."""
        along = self.stretch * jnp.stack(
            [jnp.cos(self.direction), jnp.sin(self.direction)]
        )
        turn = jnp.stack([jnp.cos(self.angle) - 1, jnp.sin(self.angle)])
        first = jnp.stack([self.flip_x, self.flip_y, self.scale])
        return jnp.concatenate([first, turn, along, self.shift])


def draw_warp(key: Key, probability: float) -> Warp:
    """Draw how one image is transformed.

    Args:
        key: a random key.
        probability: of each transformation but the mirroring of left and right, whose
            probability is a half.
    """
    keys = jr.split(key, 13)

    def sometimes(i: int, value: Array) -> Array:
        return value * jr.bernoulli(keys[i], probability).astype(jnp.float32)

    def angle(i: int) -> Array:
        return jr.uniform(keys[i], (), jnp.float32, -math.pi, math.pi)

    def half(i: int) -> Array:
        return jr.bernoulli(keys[i]).astype(jnp.float32)

    def normal(i: int, *shape: int) -> Array:
        return jr.normal(keys[i], shape, jnp.float32)

    return Warp(
        flip_x=half(0),
        flip_y=sometimes(1, half(2)),
        scale=sometimes(3, normal(4)),
        angle=sometimes(5, angle(6)),
        stretch=sometimes(7, normal(8)),
        direction=half(9) * angle(10),
        shift=sometimes(11, normal(12, 2)),
    )


def warp_image(image: Array, warp: Warp) -> Array:
    """Transform an image, [height, width, channels], about its centre.

    The image is continued by its mirror image beyond its edges. Flips move pixels and
    change none; all else reads between the pixels of an image twice as fine.
    """
    image = jnp.where(warp.flip_x > 0, image[:, ::-1], image)
    image = jnp.where(warp.flip_y > 0, image[::-1], image)
    others = jnp.stack([warp.scale, warp.angle, warp.stretch, *warp.shift])
    return jnp.where((others != 0).any(), _resampled(image, warp), image)


def _resampled(image: Array, warp: Warp) -> Array:
    height, width, channels = image.shape
    fine = jax.image.resize(image, (2 * height, 2 * width, channels), "lanczos3")
    across = jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2
    down = jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2
    x, y = jnp.meshgrid(across, down)
    # Where each pixel comes from: every step undone, the last one first.
    x = x - SHIFT * width * warp.shift[0]
    y = y - SHIFT * height * warp.shift[1]
    x, y = _turned(x, y, -warp.direction)
    x = x * jnp.exp2(-STRETCH * warp.stretch)
    y = y * jnp.exp2(STRETCH * warp.stretch)
    x, y = _turned(x, y, warp.direction - warp.angle)
    size = jnp.exp2(-SCALE * warp.scale)
    column = 2 * (size * x + (width - 1) / 2) + 0.5
    row = 2 * (size * y + (height - 1) / 2) + 0.5

    def one(channel: Array) -> Array:
        read = jax.scipy.ndimage.map_coordinates
        return read(channel, [row, column], order=1, mode="mirror")

    return jax.vmap(one, in_axes=-1, out_axes=-1)(fine).astype(image.dtype)


def _turned(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    """Turn a point by an angle, from right to down."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def augment(key: Key, images: Array, *, probability: float) -> tuple[Array, Array]:
    """Transform images at random: (images, labels [batch, 9] that tell how).

    The transformation of image i is a function of (key, i).

    Args:
        key: a random key.
        images: [batch, height, width, channels].
        probability: of each transformation; see `draw_warp`.
    """

    def one(key: Key, image: Array) -> tuple[Array, Array]:
        warp = draw_warp(key, probability)
        return warp_image(image, warp), warp.labels()

    return jax.vmap(one)(example_keys(key, images.shape[0]), images)
