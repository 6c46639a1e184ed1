"""LPIPS: a distance of two images as people see it (Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    checks_options,
    mean_over_images,
)
from score_sde.evaluation.extractor import batches, check_images


@checks_options
def lpips(
    x: Any,
    y: Any,
    *,
    embed: Callable[[np.ndarray], np.ndarray],
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """The mean LPIPS of pairs of images, with an interval over images.

    Args:
        x: uint8 images [examples, height, width, channels].
        y: the images that they are compared with.
        embed: the embedding, `FEATURES["lpips_vgg"](weights=..., heads=...)`.
        level: that of the interval; None for none.
    Raises: ValueError for what are no images, or no pairs.
    """
    first, second = check_images(x), check_images(y)
    if first.shape != second.shape:
        raise ValueError(
            f"y has shape {second.shape}; it must be {first.shape}, like x."
        )
    distances = np.empty(len(first))
    for rows in batches(len(first)):
        change = embed(first[rows]).astype(np.float64) - embed(second[rows])
        distances[rows] = np.sum(change * change, axis=1)
    settings = {"embed": str(getattr(embed, "name", embed))}
    return mean_over_images(distances, level, settings=settings, lowest=0.0)
