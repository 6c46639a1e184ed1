"""Halving and doubling of images by a short separable filter (Zhang 2019).

    down: y[n] = sum_k f[k] x[2n + k - p]         up: y[n] = 2 sum_k f[k] z[n + k - L/2]

along height and width, with L taps f that sum to one, p = L/2 - 1, z equal to x at even
places and zero at odd ones, and zeros beyond the borders. The sums are over shifted
images, so that no convolution, and no gradient of one, is needed; (1, 1) is the mean of
2x2 blocks and the nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from score_sde.types import Array

Taps = Sequence[float]


def filter_down(x: Array, taps: Taps = (1, 1)) -> Array:
    """[batch, height, width, channels] to half the height and width."""
    weights = normalised(taps)
    for axis in (1, 2):
        size = x.shape[axis]
        padded = _pad(x, axis, len(taps) // 2 - 1)
        parts = [_part(padded, axis, k, k + size - 1, 2) for k in range(len(taps))]
        x = _weighted(parts, weights)
    return x


def filter_up(x: Array, taps: Taps = (1, 1)) -> Array:
    """[batch, height, width, channels] to twice the height and width."""
    weights = 2 * normalised(taps)
    half = len(taps) // 2
    reach = half // 2
    for axis in (1, 2):
        size = x.shape[axis]
        padded = _pad(x, axis, reach)
        phases = []
        for odd in (0, 1):
            # Of the taps that meet no zero, the places in x that they meet.
            ks = [k for k in range(len(taps)) if (odd + k - half) % 2 == 0]
            starts = [reach + (odd + k - half) // 2 for k in ks]
            parts = [_part(padded, axis, s, s + size, 1) for s in starts]
            phases.append(_weighted(parts, weights[ks]))
        shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
        x = jnp.stack(phases, axis=axis + 1).reshape(shape)
    return x


def resampled(x: Array, which: str, taps: Taps) -> Array:
    """[batch, height, width, channels] halved, 'down', or doubled, 'up'."""
    return {"down": filter_down, "up": filter_up}[which](x, taps)


def filter_for_strides(x: Array, taps: Taps) -> Array:
    """Filtered, one row and column larger: what a 3x3 kernel with stride 2 then halves.

    The kernel is to be used without padding. Equal to the kernel first, with two zeros
    around the image, and then the filter with stride 2, at a quarter of the cost.
    """
    weights = normalised(taps)
    for axis in (1, 2):
        size = x.shape[axis]
        padded = _pad(x, axis, len(taps) // 2)
        parts = [_part(padded, axis, k, k + size + 1, 1) for k in range(len(taps))]
        x = _weighted(parts, weights)
    return x


def normalised(taps: Taps) -> np.ndarray:
    """The taps, divided by their sum.

    Raises: ValueError unless they are two or more, of even number, with a sum above 0.
    """
    if len(taps) < 2 or len(taps) % 2 or sum(taps) <= 0:
        raise ValueError(
            f"resample_filter is {tuple(taps)}; it must be an even number of taps "
            "with a sum above 0, such as (1, 1) or (1, 3, 3, 1)."
        )
    return np.asarray(taps, np.float64) / sum(taps)


def _pad(x: Array, axis: int, width: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (width, width)
    return jnp.pad(x, widths)


def _part(x: Array, axis: int, start: int, stop: int, stride: int) -> Array:
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, stop, stride)
    return x[tuple(index)]


def _weighted(parts: list[Array], weights: np.ndarray) -> Array:
    total = float(weights[0]) * parts[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + float(weight) * part
    return total
