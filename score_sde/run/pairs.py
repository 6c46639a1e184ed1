"""Measuring images beside the images that they should be, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.evaluation import Estimate, lpips, psnr, ssim
from score_sde.evaluation.estimate import mean_over_images

WINDOW = 11
"""Side of the window of SSIM, of images that are not smaller."""
LEVEL = 0.95


def beside(
    made: np.ndarray,
    truth: np.ndarray,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, dict[str, Any]]:
    """PSNR and SSIM of pairs of images, and LPIPS where its network is given.

    SSIM is left out of images whose sides are below 3, the smallest window.

    Args:
        made: uint8 images [examples, height, width, channels].
        truth: what they should be.
        embed: features whose squared distance is LPIPS; None for others.

    Returns:
        Name of a number -> its mean over images, "value", and its interval, "low" and
        "high"; with the "window" of SSIM.
    """
    found = {"psnr": row(psnr(made, truth))}
    shorter = min(truth.shape[1:3])
    side = min(WINDOW, shorter - (shorter + 1) % 2)
    if side >= 3:
        found["ssim"] = row(ssim(made, truth, window=side)) | {"window": side}
    if embed is not None:
        found["lpips"] = row(lpips(made, truth, embed=embed))
    return found


def row(estimate: Estimate) -> dict[str, Any]:
    """An estimate as reports have it: its value and the ends of its interval."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def mean(values: np.ndarray) -> dict[str, Any]:
    """The mean of a number of each image as reports have it, with its interval."""
    return row(mean_over_images(values, LEVEL))
