"""What a config can name: guidance, and corrections, in numbers and words alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde.conditions import captions as words
from score_sde.guidance.conditional import (
    LogProb,
    classifier,
    classifier_free,
    compose,
    null_condition,
    present,
)
from score_sde.guidance.corrections import (
    dynamic_threshold,
    static_threshold,
    temperature,
)
from score_sde.guidance.guided import (
    Guided,
    Weight,
    autoguidance,
    interpolated,
    interval,
    network_evals,
)
from score_sde.types import NO_LABEL, Array, Denoise, Scalar


def plain(denoise: Denoise) -> Denoise:
    """The denoiser as it is."""
    return denoise


def away(
    denoise: Denoise,
    *,
    weight: float = 2.0,
    negative_label: int = NO_LABEL,
    negative_caption: str = "",
    sigma_low: float = 0.0,
    sigma_high: float = math.inf,
    rescale: float = 0.0,
) -> Denoise:
    """`classifier_free` between two noise levels; the model itself elsewhere.

    negative_label, negative_caption: the class or the caption to go away from; without
    either, the model that is told nothing.
    """
    return classifier_free(
        denoise,
        _between(weight, sigma_low, sigma_high),
        negative=_negative(negative_label, negative_caption),
        rescale=rescale,
    )


def away_by_schedule(
    denoise: Denoise,
    *,
    sigmas: tuple[float, ...] = (),
    weights: tuple[float, ...] = (),
    negative_label: int = NO_LABEL,
    negative_caption: str = "",
    rescale: float = 0.0,
) -> Denoise:
    """`classifier_free` with weights at some noise levels, and between them."""
    return classifier_free(
        denoise,
        interpolated(sigmas, weights),
        negative=_negative(negative_label, negative_caption),
        rescale=rescale,
    )


def composed(
    denoise: Denoise,
    *,
    weight: float = 1.0,
    labels: tuple[int, ...] = (),
    captions: tuple[str, ...] = (),
    weights: tuple[float, ...] = (),
) -> Denoise:
    """`compose` of what each sample is told, and of others that all are told too.

    weight: of the sample's own condition.
    labels, captions: the others, of a network with classes and of one that reads.
    weights: one of each; a negative one leads away.
    """
    others = [_with("label", np.asarray(label, np.int32)) for label in labels]
    others += [_with("words", words.tokens(caption)) for caption in captions]
    whole = compose(denoise, [weight, *weights])

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        told = [present(cond), *(other(cond) for other in others)]
        return whole(x, sigma, told)

    return Guided(guided, whole.evals)


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
            lambda x, sigma, cond=None: denoise(x, sigma, _unlabelled(cond)),
            lambda sigma: network_evals(denoise, sigma),
        ),
        log_prob,
        interval(weight, sigma_low, sigma_high, outside=0.0),
    )


def away_from_worse(
    denoise: Denoise,
    *,
    bad: Denoise,
    run: str = "",
    weight: float = 2.0,
    sigma_low: float = 0.0,
    sigma_high: float = math.inf,
) -> Denoise:
    """`autoguidance` between two noise levels; the model itself elsewhere.

    Args: `run`, the folder of the run that `bad` is loaded from by who calls.
    """
    del run
    return autoguidance(denoise, bad, _between(weight, sigma_low, sigma_high))


def _between(weight: float, low: float, high: float) -> Weight:
    whole = (low, high) == (0.0, math.inf)
    return weight if whole else interval(weight, low, high)


def _unlabelled(cond: Any) -> Any:
    return cond | {"label": jnp.full_like(cond["label"], NO_LABEL)}


def _negative(label: int, caption: str) -> Callable[[Any], Any]:
    """What to go away from: the condition with another label or caption, or none."""
    if label == NO_LABEL and not caption:
        return null_condition
    if caption:
        return _with("words", words.tokens(caption))
    return _with("label", np.asarray(label, np.int32))


def _with(name: str, value: np.ndarray) -> Callable[[Any], Any]:
    """The condition with one entry of this value for all examples."""

    def other(cond: Any) -> Any:
        told = jnp.asarray(cond[name])
        return cond | {
            name: jnp.broadcast_to(jnp.asarray(value, told.dtype), told.shape)
        }

    return other


GUIDANCES: dict[str, Callable[..., Denoise]] = {
    "none": plain,
    "classifier_free": away,
    "scheduled": away_by_schedule,
    "composed": composed,
    "classifier": by_classifier,
    "auto": away_from_worse,
}
THRESHOLDS: dict[str, Callable[..., Denoise]] = {
    "none": plain,
    "static": static_threshold,
    "dynamic": dynamic_threshold,
    "temperature": temperature,
}
