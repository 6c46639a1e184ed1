"""Guidance as a config states it: by options that are numbers and words."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

from score_sde.fields import checks_rules, takes
from score_sde.guidance.needs import needs_condition
from score_sde.guidance.options import (
    High,
    Label,
    Low,
    Number,
    between,
    negative_condition,
)
from score_sde.types import NO_LABEL, Denoise

TAKEN = ("weight", "negative", "one_call")
"""Arguments of a method that are no literals, or no business of a config."""
ARGS = """\
    weight: 1 is the model itself.
    negative_label: the class to go away from; -1 for the model that is told nothing.
    negative_caption: the caption to go away from; "" as above.
    sigma_low: guide above this noise level.
    sigma_high: guide up to this noise level.
"""


def stated(method: Callable[..., Denoise]) -> Callable[..., Denoise]:
    """Make the function of a config of a method that guides away from another branch.

    Its options are a weight that holds between two noise levels, the class or caption
    to go away from, and all that the method has of its own.

    Args:
        method: (denoise, weight, *, negative, and its own options) -> guided denoiser.
    """

    def guide(
        denoise: Denoise,
        *,
        weight: Number = 2.0,
        negative_label: Label = NO_LABEL,
        negative_caption: str = "",
        sigma_low: Low = 0.0,
        sigma_high: High = math.inf,
        **own: Any,
    ) -> Denoise:
        return method(
            denoise,
            between(weight, sigma_low, sigma_high),
            negative=negative_condition(negative_label, negative_caption),
            **own,
        )

    *shared, _ = inspect.signature(guide).parameters.values()
    own = [
        parameter
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in TAKEN
    ]
    takes(guide, [*shared, *own], guide, method)
    text = re.sub(
        rf"^    (?:{'|'.join(TAKEN)}): .*\n(?:        .*\n)*",
        "",
        f"{inspect.getdoc(method)}\n",
        flags=re.M,
    )
    guide.__doc__ = text.replace("\nArgs:\n", f"\nArgs:\n{ARGS}", 1)
    condition = needs_condition(negative_label="label", negative_caption="words")
    return condition(checks_rules(guide))
