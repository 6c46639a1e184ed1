"""Calibration of a classifier, and of draws from a posterior.

A classifier: how often it is right, beside how sure it was.

    ECE = sum_b n_b / n | share of b that is right - mean confidence in b |

over bins b of the confidence, the probability of the likeliest class (Naeini et al.
2015; Guo et al. 2017, eq. 3). A generative model is such a classifier: its logits are
log p(x given class), see `Run.class_log_probs`.

Draws, such as restorations of a measurement: among them, what was measured has a rank,
which is uniform if they are draws of the posterior (Talts et al. 2018, 'SBC').
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np
from scipy.stats import chisquare

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    checks_options,
    feature_array,
    normal_quantile,
)
from score_sde.evaluation.inception_score import log_softmax
from score_sde.rules import Positive, at_least


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


class PosteriorRanks(NamedTuple):
    """Ranks of truths among draws of their posteriors, and whether they are uniform."""

    ranks: np.ndarray
    """How many draws are below the truth, 0 to draws, [examples, dims]."""
    counts: np.ndarray
    """Examples by bin of the rank, [dims, bins]; high ends are of too narrow draws."""
    p_values: np.ndarray
    """Probability of counts as uneven, if ranks are uniform, by chi-squared, [dims]."""
    p_value: float
    """The least of them times their number: of all coordinates together."""


@checks_options
def posterior_ranks(
    truths: Any, draws: Any, *, num_bins: Annotated[int, at_least(2)] = 8
) -> PosteriorRanks:
    """Rank truths among draws of their posteriors: simulation-based calibration.

    Draw x0 from the prior, measure it, and draw as many times from what is believed to
    be the posterior: where it is, every rank of x0 is as likely. Uniform ranks are
    necessary, not enough: draws of the prior have them too.

    Args:
        truths: x0, [examples, *dims].
        draws: [examples, draws, *dims], independent of each other. A draw that equals
            the truth counts as below it or not by chance.
        num_bins: into which ranks are put; it divides draws + 1. Some five examples to
            a bin, or more, make the p-value what it says.
    Raises: ValueError for shapes that differ, numbers that are not finite, and bins
        that ranks can't fill evenly.
    """
    truths, draws = np.asarray(truths, np.float64), np.asarray(draws, np.float64)
    fits = truths.ndim > 0 and draws.ndim == truths.ndim + 1 and len(truths)
    if not fits or draws.shape != (len(truths), draws.shape[1], *truths.shape[1:]):
        raise ValueError(
            f"draws have shape {draws.shape}; for truths of shape {truths.shape} they "
            "must be [examples, draws, *dims]."
        )
    if not (np.isfinite(truths).all() and np.isfinite(draws).all()):
        raise ValueError("truths and draws must be finite, and some are not.")
    places = draws.shape[1] + 1
    if places % num_bins:
        raise ValueError(
            f"num_bins is {num_bins}; it must divide the {places} ranks that "
            f"{places - 1} draws have."
        )
    x0 = truths.reshape(len(truths), 1, -1)
    drawn = draws.reshape(len(draws), places - 1, -1)
    equal = (drawn == x0).sum(1)
    ranks = (drawn < x0).sum(1) + np.random.default_rng(0).integers(0, equal + 1)
    bins = ranks * num_bins // places
    counts = np.stack([np.bincount(column, minlength=num_bins) for column in bins.T])
    p_values = chisquare(counts, axis=1).pvalue
    p_value = min(1.0, len(p_values) * float(p_values.min()))
    return PosteriorRanks(ranks, counts, p_values, p_value)


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
