"""The registry of metrics, and the floor beside each number.

A metric is a function `(real, fake, *, options) -> Estimate`, or a NamedTuple of some.
The options' rules stand in its signature (`Annotated[int, Positive]`). One that reads
anything but features says so by `reads`. A user's own is registered by assignment:
`METRICS["mine"] = mine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    checks_options,
    feature_array,
    feature_arrays,
    set_counts,
)
from score_sde.evaluation.fd_infinity import fd_infinity
from score_sde.evaluation.frechet import frechet_distance
from score_sde.evaluation.inception_score import (
    ClassStatistics,
    class_statistics,
    inception_score,
)
from score_sde.evaluation.kernel import (
    cmmd,
    kernel_distance,
    kernel_distance_of_subsets,
)
from score_sde.evaluation.manifold import density_coverage, precision_recall
from score_sde.evaluation.memorisation import authenticity, memorisation
from score_sde.evaluation.pairs import psnr, ssim
from score_sde.evaluation.reading import reads
from score_sde.evaluation.vendi import vendi_score
from score_sde.rules import NonNegative, Positive, Share

Metric = Callable[..., Any]


@reads("logits")
@checks_options
def classes_of_samples(
    real: Any,
    fake: Any,
    *,
    threshold: Annotated[float, Share] = 0.9,
    level: Annotated[float | None, Level] = 0.95,
) -> ClassStatistics:
    """The share of samples that a classifier is sure of, and their counts by class.

    Args:
        real: logits [examples, classes] of the data, whose own share is the floor.
        fake: logits of samples, of the same classifier.
        threshold: the probability of the likeliest class at which it is sure.
        level: that of the interval; None for none.
    Raises: ValueError for what are no logits of one classifier.
    """
    data, logits = feature_arrays(("real", "fake"), real, fake, at_least=1)
    found = class_statistics(logits, threshold=threshold, level=level)
    return found._replace(sure=_counted(found.sure, data, logits))


@reads("logits")
@checks_options
def inception_score_of_samples(
    real: Any,
    fake: Any,
    *,
    splits: Annotated[int, Positive] = 1,
    seed: Annotated[int | None, NonNegative] = None,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """The inception score of samples; that of the data is its floor.

    Args:
        real: logits [examples, classes] of the data.
        fake: logits of samples, of the same classifier.
        splits: of how many equal parts the mean is taken; papers take 10.
        seed: that of the shuffle before; None for the order of the samples.
        level: that of the interval; None for none.
    Raises: ValueError for what are no logits of one classifier.
    """
    data, logits = feature_arrays(("real", "fake"), real, fake, at_least=1)
    found = inception_score(logits, splits=splits, seed=seed, level=level)
    return _counted(found, data, logits)


@checks_options
def vendi_score_of_samples(
    real: Any, fake: Any, *, level: Annotated[float | None, Level] = 0.95
) -> Estimate:
    """The Vendi score of samples; that of half of the data is its floor.

    Args:
        real: features [examples, dims] of the data.
        fake: features of samples, no row 0.
        level: that of the interval; None for none.
    Raises: ValueError for what is not comparable, or a row that has no direction.
    """
    data, samples = feature_arrays(("real", "fake"), real, fake)
    return _counted(vendi_score(samples, level=level), data, samples)


def _counted(found: Estimate, real: np.ndarray, fake: np.ndarray) -> Estimate:
    """The estimate with the counts of both sides."""
    return dataclasses.replace(found, counts={**found.counts, **set_counts(real, fake)})


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
    "class_statistics": classes_of_samples,
    "inception_score": inception_score_of_samples,
    "vendi_score": vendi_score_of_samples,
}
"""Metrics of features [examples, dims] of the data and of samples: (real, fake).

Some read logits instead, and those of copies the training split, see `reads`.
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
    """Measure two random halves of the data: no model can be better.

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
