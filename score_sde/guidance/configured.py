"""What a config can name: guidance of labels, and thresholds, in numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.guidance.conditional import (
    LogProb,
    classifier,
    classifier_free,
    null_condition,
)
from score_sde.guidance.corrections import dynamic_threshold, static_threshold
from score_sde.guidance.guided import Guided, interval, network_evals
from score_sde.types import NO_LABEL, Denoise


def plain(denoise: Denoise) -> Denoise:
    """The denoiser as it is."""
    return denoise


def away_from_label(
    denoise: Denoise,
    *,
    weight: float = 2.0,
    negative_label: int = NO_LABEL,
    sigma_low: float = 0.0,
    sigma_high: float = math.inf,
    rescale: float = 0.0,
) -> Denoise:
    """`classifier_free` between two noise levels; the model itself elsewhere.

    negative_label: the class to go away from; -1 is the unconditional model.
    """
    whole = (sigma_low, sigma_high) == (0.0, math.inf)
    negative: Any = null_condition
    if negative_label != NO_LABEL:
        negative = {"label": np.asarray([negative_label], np.int32)}
    return classifier_free(
        denoise,
        weight if whole else interval(weight, sigma_low, sigma_high),
        negative=negative,
        rescale=rescale,
    )


def by_classifier(
    denoise: Denoise,
    *,
    log_prob: LogProb,
    weight: float = 1.0,
    sigma_low: float = 0.0,
    sigma_high: float = math.inf,
) -> Denoise:
    """`classifier` between two noise levels; the model itself is told no label."""
    return classifier(
        Guided(
            lambda x, sigma, cond=None: denoise(x, sigma, null_condition(cond)),
            lambda sigma: network_evals(denoise, sigma),
        ),
        log_prob,
        interval(weight, sigma_low, sigma_high, outside=0.0),
    )


GUIDANCES: dict[str, Callable[..., Denoise]] = {
    "none": plain,
    "classifier_free": away_from_label,
    "classifier": by_classifier,
}
THRESHOLDS: dict[str, Callable[..., Denoise]] = {
    "none": plain,
    "static": static_threshold,
    "dynamic": dynamic_threshold,
}
