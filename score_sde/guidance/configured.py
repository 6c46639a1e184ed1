"""Guidance and thresholds that a config can name, their options numbers and words.

Options are checked when a function is called with a denoiser, before that is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from score_sde.conditions import captions as words
from score_sde.fields import checks_rules
from score_sde.guidance import conditional
from score_sde.guidance.branches import tangential, zero_star
from score_sde.guidance.conditional import (
    LabelLogProb,
    classifier_free,
    compose,
    require_condition,
)
from score_sde.guidance.corrections import (
    dynamic_threshold,
    static_threshold,
    temperature,
)
from score_sde.guidance.guided import (
    Guided,
    autoguidance,
    interpolated,
    network_evals,
)
from score_sde.guidance.needs import needs_condition
from score_sde.guidance.options import (
    High,
    Label,
    Low,
    Number,
    between,
    between_levels,
    negative_condition,
    with_entry,
)
from score_sde.guidance.projected import adaptive_projected
from score_sde.guidance.stated import stated
from score_sde.guidance.variants import (
    away_from_perturbed,
    by_bands,
    with_the_others_noise,
)
from score_sde.rules import Finite, Positive, Share, at_least, each
from score_sde.types import NO_LABEL, Array, Denoise, Scalar


def unguided(denoise: Denoise) -> Denoise:
    """Return the denoiser as it is."""
    return denoise


@needs_condition(negative_label="label", negative_caption="words")
@checks_rules
def away_by_schedule(
    denoise: Denoise,
    *,
    sigmas: Annotated[tuple[float, ...], each(Positive)] = (),
    weights: Annotated[tuple[float, ...], each(Finite)] = (),
    negative_label: Label = NO_LABEL,
    negative_caption: str = "",
    rescale: Annotated[float, Share] = 0.0,
) -> Denoise:
    """Guide by `classifier_free` with a weight that is a function of the noise level.

    Args:
        denoise: a model that was trained with and without its condition.
        sigmas: ascending noise levels.
        weights: the weight at each of them; see `interpolated`.
        negative_label: the class to go away from; -1 for the model that is told
            nothing.
        negative_caption: the caption to go away from; "" as above.
        rescale: as in `classifier_free`.

    Raises: ValueError for options that break a rule, levels that do not ascend, and
        another number of weights.
    """
    return classifier_free(
        denoise,
        interpolated(sigmas, weights),
        negative=negative_condition(negative_label, negative_caption),
        rescale=rescale,
    )


@needs_condition(labels="label", captions="words")
@checks_rules
def composed(
    denoise: Denoise,
    *,
    weight: Number = 1.0,
    labels: Annotated[tuple[int, ...], each(at_least(NO_LABEL))] = (),
    captions: tuple[str, ...] = (),
    weights: Annotated[tuple[float, ...], each(Finite)] = (),
) -> Denoise:
    """Compose each sample's own condition with others that all samples are told too.

    Args:
        denoise: a model that was trained with and without its condition.
        weight: the weight of the sample's own condition.
        labels: further classes, of a model that is told labels.
        captions: further captions, of a model that reads.
        weights: one of each label and caption; a negative one leads away.

    Raises: ValueError for options that break a rule, and another number of weights.
    """
    if len(weights) != len(labels) + len(captions):
        raise ValueError(
            f"weights is {weights}; it needs one number for each of labels and "
            f"captions, {len(labels) + len(captions)}."
        )
    others = [with_entry("label", np.asarray(label, np.int32)) for label in labels]
    others += [with_entry("words", words.tokens(caption)) for caption in captions]
    whole = compose(denoise, [weight, *weights])

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        conds = [require_condition(cond), *(other(cond) for other in others)]
        return whole(x, sigma, conds)

    return Guided(guided, whole.evals)


@needs_condition("label")
@checks_rules
def by_classifier(
    denoise: Denoise,
    *,
    classifier: LabelLogProb,
    weight: Number = 1.0,
    sigma_low: Low = 0.0,
    sigma_high: High = math.inf,
) -> Denoise:
    """Guide by `classifier` between two noise levels; the model is told no label.

    Args:
        denoise: a model, unconditional or trained with and without labels.
        classifier: log p(label | x, sigma); its run is a companion of the model's.
        weight: the weight of the classifier's gradient.
        sigma_low: guide above this noise level.
        sigma_high: guide up to this noise level.

    Raises: ValueError for options that break a rule.
    """
    unlabelled = Guided(
        lambda x, sigma, cond=None: denoise(x, sigma, _unlabelled(cond)),
        lambda sigma: network_evals(denoise, sigma),
    )
    levels = between_levels(weight, sigma_low, sigma_high, outside=0.0)
    return conditional.classifier(unlabelled, classifier, levels)


@checks_rules
def away_from_worse(
    denoise: Denoise,
    *,
    worse: Denoise,
    weight: Number = 2.0,
    sigma_low: Low = 0.0,
    sigma_high: High = math.inf,
) -> Denoise:
    """Guide by `autoguidance` between two noise levels alone.

    Args:
        denoise: the model.
        worse: the weaker model to go away from; its run is a companion of the model's.
        weight: 1 is the model itself.
        sigma_low: guide above this noise level.
        sigma_high: guide up to this noise level.

    Raises: ValueError for options that break a rule.
    """
    return autoguidance(denoise, worse, between(weight, sigma_low, sigma_high))


def _unlabelled(cond: Any) -> Any:
    """The condition with label -1 for every example."""
    return cond | {"label": jnp.full_like(cond["label"], NO_LABEL)}


GUIDANCES: dict[str, Callable[..., Denoise]] = {
    "none": unguided,
    "classifier_free": stated(classifier_free),
    "scheduled": away_by_schedule,
    "composed": composed,
    "classifier": by_classifier,
    "auto": away_from_worse,
    "projected": stated(adaptive_projected),
    "plus_plus": with_the_others_noise,
    "zero_star": stated(zero_star),
    "tangential": stated(tangential),
    "frequency": by_bands,
    "perturbed": away_from_perturbed,
}
THRESHOLDS: dict[str, Callable[..., Denoise]] = {
    "none": unguided,
    "static": static_threshold,
    "dynamic": dynamic_threshold,
    "temperature": temperature,
}
