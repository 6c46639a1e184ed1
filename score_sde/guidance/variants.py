"""Guidance of a config whose weights are others than one between two levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from score_sde.fields import checks_rules
from score_sde.guidance.branches import frequency_decoupled
from score_sde.guidance.conditional import plus_plus
from score_sde.guidance.guided import Guided, autoguidance, network_evals
from score_sde.guidance.needs import for_euler_steps, needs_condition
from score_sde.guidance.options import (
    High,
    Label,
    Low,
    Number,
    between,
    negative_condition,
)
from score_sde.rules import Finite, each
from score_sde.types import NO_LABEL, Denoise, Grid

Perturb = Callable[[Sequence[str], Sequence[str]], Denoise]
"""(modules to leave out, modules whose self-attention reads nothing but its own place)
-> the denoiser of the network without them."""


@for_euler_steps
@needs_condition(negative_label="label", negative_caption="words")
@checks_rules
def with_the_others_noise(
    denoise: Denoise,
    *,
    grid: Grid,
    weight: Number = 0.6,
    negative_label: Label = NO_LABEL,
    negative_caption: str = "",
) -> Denoise:
    """Guide by `plus_plus`.

    Args:
        denoise: a model that was trained with and without its condition.
        grid: the noise levels that are sampled on.
        weight: from 0, the other branch alone, to 1.
        negative_label: the class to go away from; -1 for the model that is told
            nothing.
        negative_caption: the caption to go away from; "" as above.

    Raises: ValueError for options that break a rule.
    """
    negative = negative_condition(negative_label, negative_caption)
    return plus_plus(denoise, weight, grid=grid, negative=negative)


@needs_condition(negative_label="label", negative_caption="words")
@checks_rules
def by_bands(
    denoise: Denoise,
    *,
    weights: Annotated[tuple[float, ...], each(Finite, at_least_one=True)] = (2.0, 1.0),
    negative_label: Label = NO_LABEL,
    negative_caption: str = "",
    sigma_low: Low = 0.0,
    sigma_high: High = math.inf,
) -> Denoise:
    """Guide by `frequency_decoupled` between two noise levels alone.

    Args:
        denoise: a model of images that was trained with and without its condition.
        weights: one for each band of frequencies, the finest first.
        negative_label: the class to go away from; -1 for the model that is told
            nothing.
        negative_caption: the caption to go away from; "" as above.
        sigma_low: guide above this noise level.
        sigma_high: guide up to this noise level.

    Raises: ValueError for options that break a rule.
    """
    return frequency_decoupled(
        denoise,
        [between(w, sigma_low, sigma_high) for w in weights],
        negative=negative_condition(negative_label, negative_caption),
    )


@checks_rules
def away_from_perturbed(
    denoise: Denoise,
    *,
    perturbed: Perturb,
    weight: Number = 2.0,
    skip: tuple[str, ...] = (),
    attention: tuple[str, ...] = ("*",),
    sigma_low: Low = 0.0,
    sigma_high: High = math.inf,
) -> Denoise:
    """Guide away from the model itself with parts of its network left out.

    Skipped layers are those of Hyung et al. 2025 ('STG') and of skip-layer guidance;
    self-attention that reads nothing but its own place is that of Ahn et al. 2024
    ('PAG', whose scale is the weight - 1). It needs no condition.

    Args:
        denoise: the model.
        perturbed: makes the denoiser without some parts; the run itself offers it.
        weight: 1 is the model itself.
        skip: modules of the network that pass their input on, by their names as
            `fnmatch` reads them: "Block_3", "*Block_*".
        attention: modules in which self-attention reads nothing but its own place; "*"
            for the whole network.
        sigma_low: guide above this noise level.
        sigma_high: guide up to this noise level.

    Raises: ValueError for options that break a rule, and if both are empty.
    """
    if not skip and not attention:
        raise ValueError(
            "skip and attention are both empty: name modules of the network to skip, "
            "or whose attention to perturb ('*' for all)."
        )

    # When it is called: at binding there is no network yet.
    worse = Guided(
        lambda x, sigma, cond=None: perturbed(skip, attention)(x, sigma, cond),
        lambda sigma: network_evals(denoise, sigma),
    )
    return autoguidance(denoise, worse, between(weight, sigma_low, sigma_high))
