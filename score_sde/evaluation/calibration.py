"""Calibration of a classifier: how often it is right, beside how sure it was.

    ECE = sum_b n_b / n | share of b that is right - mean confidence in b |

over bins b of the confidence, the probability of the likeliest class (Naeini et al.
2015; Guo et al. 2017, eq. 3). A generative model is such a classifier: its logits are
log p(x given class), see `Run.class_log_probs`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    checks_options,
    feature_array,
    normal_quantile,
)
from score_sde.evaluation.inception_score import log_softmax
from score_sde.rules import Positive


@checks_options
def calibration_error(
    logits: Any,
    labels: Any,
    *,
    num_bins: Annotated[int, Positive] = 15,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """The expected calibration error of a classifier, between 0 and 1.

    The value is too large by chance: a classifier whose probabilities are right has,
    with as many examples, the value `parts["floor"]` on average, where the gap of each
    bin is normal noise. The excess is never more than that, so that the interval
    reaches below the value by the floor too.

    Args:
        logits: log-probabilities of classes up to a constant, [examples, classes].
        labels: the true classes, whole numbers [examples].
        num_bins: of equal width in the confidence.
        level: that of the interval; None for none.
    Raises: ValueError for what are no logits, or no labels of them.
    """
    array = feature_array("logits", logits, at_least=1)
    classes = _labels(labels, *array.shape)
    probabilities = np.exp(log_softmax(array))
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == classes
    # A confidence on an edge belongs to the bin below it.
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    number = len(array)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(bins, weights=values, minlength=num_bins) / number

    value = float(np.abs(total(right - confidence)).sum())
    # The standard deviation of each bin's gap, if the confidences are right.
    spread = np.sqrt(total(confidence * (1 - confidence)) / number)
    floor = math.sqrt(2 / math.pi) * float(spread.sum())
    # And as it was: the larger of both, since few examples may all be right.
    seen = total((right - confidence) ** 2) - total(right - confidence) ** 2
    error = float(np.sqrt(np.maximum(spread**2, seen / number).sum()))
    low, high = math.nan, math.nan
    if level is not None:
        half = normal_quantile(level) * error
        low, high = max(0.0, value - floor - half), min(1.0, value + half)
    return Estimate(
        value,
        low,
        high,
        level,
        "normal over examples, the floor taken off its lower end",
        {"num_examples": number, "num_classes": array.shape[1]},
        {"num_bins": num_bins},
        {
            "floor": floor,
            "standard_error": error,
            "accuracy": float(right.mean()),
            "confidence": float(confidence.mean()),
        },
    )


def _labels(labels: Any, number: int, num_classes: int) -> np.ndarray:
    """Labels as an array of whole numbers below num_classes, checked."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.shape != (number,):
        raise ValueError(
            f"labels hold {array.dtype} of shape {array.shape}; they must be whole "
            f"numbers of shape {(number,)}, one for each row of logits."
        )
    wrong = array[(array < 0) | (array >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"labels hold {wrong[0]}; logits have the classes 0 to {num_classes - 1}."
        )
    return array
