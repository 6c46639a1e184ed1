"""Distances of pairs of images: how well restorations and codes keep the original.

    PSNR = 10 log10(range^2 / mean squared error)
    SSIM = mean of (2 mx my + c1)(2 sxy + c2) / ((mx^2 + my^2 + c1)(sx^2 + sy^2 + c2))

(Wang et al. 2004), each image by itself, then the mean over images.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    blocks,
    checks_options,
    mean_over_images,
)
from score_sde.rules import Positive, Rule

OddFrom3 = Rule("an odd number >= 3", lambda v: v >= 3 and v % 2 == 1)
K1, K2 = 0.01, 0.03
"""The constants of SSIM, in units of the range."""


@checks_options
def psnr(
    x: Any,
    y: Any,
    *,
    data_range: Annotated[float | None, Positive] = None,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """The mean peak signal-to-noise ratio of pairs of images, in dB, with an interval.

    It is infinite for images that are the same.

    Args:
        x: images [examples, height, width, channels], uint8 or floats.
        y: the images that they are compared with, of the same shape and type.
        data_range: greatest possible value less the least; 255 for uint8. Floats don't
            tell it: it must be given.
        level: that of the interval; None for none.
    Raises: ValueError for what are no images, or no pairs.
    """
    first, second, span = _pairs(x, y, data_range)
    ratios = np.empty(len(first))
    for rows in blocks(len(first), first[0].size):
        error = first[rows].astype(np.float64) - second[rows]
        mse = np.mean(error * error, axis=(1, 2, 3))
        with np.errstate(divide="ignore"):
            ratios[rows] = 10 * np.log10(span * span / mse)
    return mean_over_images(
        ratios, level, counts=_counts(first), settings={"data_range": span}
    )


@checks_options
def ssim(
    x: Any,
    y: Any,
    *,
    data_range: Annotated[float | None, Positive] = None,
    window: Annotated[int, OddFrom3] = 11,
    width: Annotated[float, Positive] = 1.5,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """The mean structural similarity of pairs of images, with an interval.

    Each channel by itself, at the places where the window is inside the image.

    Args:
        x: images [examples, height, width, channels], uint8 or floats >= 0.
        y: the images that they are compared with, of the same shape and type.
        data_range: greatest possible value less the least; 255 for uint8. Floats don't
            tell it: it must be given.
        window: side of the Gaussian window, in pixels.
        width: its standard deviation.
        level: that of the interval; None for none.
    Raises: ValueError for what are no images, no pairs, or smaller than the window.
    """
    first, second, span = _pairs(x, y, data_range)
    for name, images in (("x", first), ("y", second)):
        if images.min() < 0:
            raise ValueError(
                f"ssim: {name} holds {images.min()}; values must be from 0 to the "
                "range, since SSIM compares means by their ratio."
            )
    if min(first.shape[1:3]) < window:
        raise ValueError(
            f"ssim: window is {window}; it must be at most the least side of the "
            f"images, {min(first.shape[1:3])}."
        )
    offsets = np.arange(window) - window // 2
    taps = np.exp(-((offsets / width) ** 2) / 2)
    taps /= taps.sum()
    values = np.empty(len(first))
    for rows in blocks(len(first), 6 * first[0].size):
        a, b = (image[rows].astype(np.float64) for image in (first, second))
        values[rows] = _similarity(a, b, taps, span).mean((1, 2, 3))
    settings = {"data_range": span, "window": window, "width": width}
    return mean_over_images(values, level, counts=_counts(first), settings=settings)


def _counts(images: np.ndarray) -> dict[str, int]:
    return {"num_pairs": len(images), "dims": images[0].size}


def _similarity(
    x: np.ndarray, y: np.ndarray, taps: np.ndarray, span: float
) -> np.ndarray:
    """SSIM at every place of images [n, h, w, c]."""
    mx, my = _blur(x, taps), _blur(y, taps)
    variances = _blur(x * x, taps) - mx * mx + (_blur(y * y, taps) - my * my)
    covariance = _blur(x * y, taps) - mx * my
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    return np.asarray(luminance * (2 * covariance + c2) / (variances + c2))


def _blur(images: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Weighted means over a separable window, where it fits."""
    for axis in (1, 2):
        parts = np.lib.stride_tricks.sliding_window_view(images, len(taps), axis)
        images = parts @ taps
    return images


def _pairs(
    x: Any, y: Any, data_range: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Images in pairs, checked, and their range."""
    first, second = np.asarray(x), np.asarray(y)
    for name, images in (("x", first), ("y", second)):
        if images.ndim != 4 or not images.size:
            raise ValueError(
                f"{name} has shape {images.shape}; it must be "
                "[examples, height, width, channels]."
            )
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise ValueError(
                f"{name} holds {images.dtype}; it must hold uint8 or floats."
            )
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise ValueError(f"{name} holds NaN or inf; it must be finite.")
    if first.shape != second.shape:
        raise ValueError(
            f"y has shape {second.shape}; it must be {first.shape}, like x."
        )
    if (first.dtype == np.uint8) != (second.dtype == np.uint8):
        raise ValueError(f"y holds {second.dtype}; it must hold {first.dtype}, like x.")
    if data_range is None:
        if first.dtype != np.uint8:
            raise ValueError(
                "data_range is None; it must be given for floats: 2 for images in "
                "[-1, 1], 1 for [0, 1]."
            )
        data_range = 255.0
    return first, second, float(data_range)
