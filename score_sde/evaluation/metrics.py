"""The registry of metrics, and the floor beside each number.

A metric is a function `(real, fake, *, options) -> Estimate`, or a NamedTuple of some.
The options' rules stand in its signature (`Annotated[int, Positive]`). A user's own is
registered by assignment: `METRICS["mine"] = mine`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.evaluation.estimate import feature_array
from score_sde.evaluation.fd_infinity import fd_infinity
from score_sde.evaluation.frechet import frechet_distance
from score_sde.evaluation.inception_score import class_statistics, inception_score
from score_sde.evaluation.kernel import (
    cmmd,
    kernel_distance,
    kernel_distance_of_subsets,
)
from score_sde.evaluation.manifold import density_coverage, precision_recall
from score_sde.evaluation.memorisation import authenticity, memorisation
from score_sde.evaluation.pairs import psnr, ssim
from score_sde.evaluation.vendi import vendi_score

Metric = Callable[..., Any]

METRICS: dict[str, Metric] = {
    "frechet_distance": frechet_distance,
    "fd_infinity": fd_infinity,
    "kernel_distance": kernel_distance,
    "kernel_distance_of_subsets": kernel_distance_of_subsets,
    "cmmd": cmmd,
    "precision_recall": precision_recall,
    "density_coverage": density_coverage,
    "authenticity": authenticity,
    "memorisation": memorisation,
}
"""Metrics of features [examples, dims] of the data and of samples: (real, fake).

`memorisation` also needs `held_out`, which whoever has the data gives."""

SAMPLE_METRICS: dict[str, Metric] = {
    "vendi_score": vendi_score,
    "inception_score": inception_score,
    "class_statistics": class_statistics,
}
"""Metrics of samples alone: of features, and two of a classifier's logits."""

PAIR_METRICS: dict[str, Metric] = {"psnr": psnr, "ssim": ssim}
"""Metrics of images in pairs [examples, height, width, channels]: (x, y)."""


def split_half_floor(
    metric: Metric, real: Any, *, seed: int = 0, **options: Any
) -> Any:
    """What a metric says of two random halves of the data: no model can be better.

    Half as many examples have a larger bias than all: the floor of a Frechet distance
    is above what the whole sets would give for equal laws.

    Args:
        metric: a function (real, fake, *, options).
        real: features [examples, dims] of the data.
        seed: that of the split.
        options: those of the metric.
    Returns: what the metric returns, of the first and the second half.
    Raises: ValueError for fewer than 4 examples, and what the metric raises.
    """
    array = feature_array("real", real, at_least=4, why=" for two halves")
    order = np.random.default_rng(seed).permutation(len(array))
    half = len(array) // 2
    return metric(array[order[:half]], array[order[half : 2 * half]], **options)
