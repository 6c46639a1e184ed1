"""Numbers that describe an image, as a condition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from score_sde.conditions.attributes import ATTRIBUTES, measured
from score_sde.conditions.condition import Cond, Condition, Rows, constant, stated
from score_sde.data import Dataset, centres
from score_sde.types import choices_text

NUM_MEASURED = 2_000
"""Training examples from which the mean and the spread of each attribute are taken."""


def vector(
    *,
    dataset: Dataset,
    attributes: tuple[str, ...],
    samples: tuple[Any, ...] = (),
) -> Condition:
    """Attributes of the image, {"vector": [batch, attributes + 1]}, of `attributes`.

    Each in standard deviations from its mean over training examples, and a 1 behind
    them.

    Args:
        dataset: images, whose training split is read.
        attributes: names in `ATTRIBUTES`.
        samples: the attributes of samples in their own units, a tuple of as many
            numbers for each sample in turn, or one such tuple; () for those of held-out
            images.

    Raises:
        ValueError: for an unknown attribute, other data than images, and samples with
            another number of attributes.
    """
    _check(dataset, attributes)
    some = dataset.train[np.arange(min(NUM_MEASURED, len(dataset.train)))]["values"]
    known = measured(attributes, centres(some, num_levels=dataset.num_levels))
    mean, std = known.mean(0, keepdims=True), known.std(0, keepdims=True)
    if not (std > 0).all():
        name = attributes[int(np.argmin(std[0]))]
        raise ValueError(f"{name} is the same for all images of {dataset.name}.")

    def in_units(values: Any) -> Cond:
        xp = values.__array_namespace__()
        ones = xp.ones((len(values), 1), values.dtype)
        return {"vector": xp.concatenate([(values - mean) / std, ones], axis=1)}

    def of_examples(rows: Rows) -> Cond:
        x = centres(rows["values"], num_levels=dataset.num_levels)
        return in_units(measured(attributes, x))

    def state(value: Any) -> Cond:
        numbers = value if isinstance(value, (tuple, list)) else ()
        if len(numbers) != len(attributes) or not all(
            isinstance(n, (int, float)) and math.isfinite(n) for n in numbers
        ):
            raise ValueError(
                f"{value!r} must be one finite number for each of {attributes}."
            )
        return in_units(np.asarray([numbers], np.float32))

    one = samples and not isinstance(samples[0], (tuple, list))
    return constant(
        of_examples,
        samples=stated(state, [samples] if one else samples),
        facts={"vector_dims": len(attributes) + 1},
        state=state,
        describes_values=True,
    )


def _check(dataset: Dataset, attributes: tuple[str, ...]) -> None:
    """Raise a ValueError for unknown attributes, none, or data that are no images."""
    unknown = [name for name in attributes if name not in ATTRIBUTES]
    if unknown or not attributes:
        name = unknown[0] if unknown else ()
        raise ValueError(f"attributes has {name!r}{choices_text(name, ATTRIBUTES)}.")
    if len(dataset.shape) != 3:
        raise ValueError(
            f"attributes are of images; {dataset.name} has shape {dataset.shape}."
        )
