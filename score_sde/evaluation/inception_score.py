"""Inception score, and what a classifier says of samples.

    IS = exp( mean_x KL( p(class | x) || mean_x p(class | x) ) )

(Salimans et al. 2016). Any classifier's logits serve; the score is named after
Inception's, which torch-fidelity takes without the bias of the last layer.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np

from score_sde.evaluation.estimate import (
    NAN,
    Estimate,
    Level,
    checks_options,
    feature_array,
    interval,
    share_interval,
)
from score_sde.rules import NonNegative, Positive, Share

METHOD = "infinitesimal jackknife over images, bias removed; for the score of the law"
ALONE = "none: a part of a single example has no spread"


@checks_options
def inception_score(
    logits: Any,
    *,
    splits: Annotated[int, Positive] = 1,
    block_size: Annotated[int | None, Positive] = None,
    seed: Annotated[int | None, NonNegative] = None,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """The inception score of samples from a classifier's logits, with an interval.

    Splits lower the score: each has fewer samples. Papers take 10, after shuffling.

    Args:
        logits: [examples, classes], floats; they are normalised here.
        splits: of how many equal parts, in order, the mean is taken.
        block_size: parts of this size instead, the last one shorter (guided-diffusion).
        seed: that of `numpy.random.RandomState`, which shuffles first (torch-fidelity
            takes 2020); None for the order of the examples.
        level: that of the interval; None for none.
    Returns: the mean over splits. `parts["std"]` is the deviation that papers print.
        There is no interval where a part has a single example.
    Raises: ValueError for what are no logits, fewer examples than splits, or splits
        beside a block size.
    """
    if splits != 1 and block_size is not None:
        raise ValueError(
            f"inception_score: splits is {splits} and block_size is {block_size}; give "
            "one of them."
        )
    array = feature_array("logits", logits, at_least=splits, why=" for as many splits")
    number = len(array)
    order = np.arange(number)
    if seed is not None:
        order = np.random.RandomState(seed).permutation(number)
    edges = [i * number // splits for i in range(splits + 1)]
    if block_size is not None:
        edges = [*range(0, number, block_size), number]
    parts = [
        _score_of_part(array[order[a:b]])
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    scores = np.array([p.score for p in parts])
    value = float(scores.mean())
    # d exp(I) = exp(I) dI, to first order, in each part.
    bias = float(np.mean([p.score * p.bias for p in parts]))
    error = math.sqrt(float(np.sum([(p.score * p.error) ** 2 for p in parts])))
    error /= len(parts)
    low, high = interval(
        value, error, level, bias=bias, lowest=1.0, highest=float(array.shape[1])
    )
    return Estimate(
        value,
        low,
        high,
        level,
        ALONE if math.isnan(error) else METHOD,
        {"num_fake": number, "num_classes": array.shape[1]},
        {"splits": len(parts), "block_size": block_size, "seed": seed},
        {"std": float(scores.std()), "standard_error": error, "bias": bias},
    )


class _Part(NamedTuple):
    score: float
    bias: float
    """That of log(score), the mutual information: negative."""
    error: float
    """The standard error of log(score)."""


def _score_of_part(logits: np.ndarray) -> _Part:
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    mean = p.mean(0)
    log_mean = np.log(np.where(mean > 0, mean, 1))
    # p log p is 0 at p = 0, where log p may be large.
    divergence = np.sum(p * (log_p - log_mean), axis=1)
    variances = np.divide(p.var(0), mean, out=np.zeros_like(mean), where=mean > 0)
    number = len(logits)
    spread = divergence.std(ddof=1) if number > 1 else NAN
    return _Part(
        math.exp(divergence.mean()),
        -float(variances.sum()) / (2 * number),
        float(spread) / math.sqrt(number),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of classes from logits [examples, classes], in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


class ClassStatistics(NamedTuple):
    """A classifier's statistics of samples."""

    sure: Estimate
    """The share of samples whose likeliest class has the asked probability."""
    counts: np.ndarray
    """How many samples are likeliest of each class."""


@checks_options
def class_statistics(
    logits: Any,
    *,
    threshold: Annotated[float, Share] = 0.9,
    level: Annotated[float | None, Level] = 0.95,
) -> ClassStatistics:
    """The share of samples that a classifier is sure of, and their counts by class.

    Args:
        logits: [examples, classes], floats.
        threshold: the probability of the likeliest class at which it is sure.
        level: that of the interval; None for none.
    Raises: ValueError for what are no logits.
    """
    array = feature_array("logits", logits, at_least=1)
    probability = np.exp(log_softmax(array).max(1))
    share = float(np.mean(probability >= threshold))
    low, high = share_interval(share, len(array), level)
    sure = Estimate(
        share,
        low,
        high,
        level,
        "Wilson, over images",
        {"num_fake": len(array), "num_classes": array.shape[1]},
        {"threshold": threshold},
    )
    return ClassStatistics(sure, np.bincount(array.argmax(1), minlength=array.shape[1]))
