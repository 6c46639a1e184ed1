"""A change of training images as a condition (Karras et al. 2022, app. F.2)."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from score_sde.conditions.condition import Cond, Condition, Rows
from score_sde.data import Dataset
from score_sde.data.augment import NUM_LABELS, augment
from score_sde.rules import Share
from score_sde.types import Array, Key


def augmentation(
    *, dataset: Dataset, probability: Annotated[float, Share] = 0.12
) -> Condition:
    """The random transformation of an image, {"augment": [batch, 9]}.

    Examples that are scored, and samples, are not transformed: all zero.

    Args:
        dataset: images.
        probability: of each transformation; 0 for a network that knows them and is
            trained on without them.

    Raises:
        ValueError: for other data than images.
    """
    if len(dataset.shape) != 3:
        raise ValueError(f"it is for images; {dataset.name} has shape {dataset.shape}.")

    def untouched(rows: Rows) -> Cond:
        values = rows["values"]
        xp = values.__array_namespace__()
        return {"augment": xp.zeros((len(values), NUM_LABELS), np.float32)}

    def transform(key: Key, x0: Array) -> tuple[Array, Cond]:
        x0, how = augment(key, x0, probability=probability)
        return x0, {"augment": how}

    return Condition(
        untouched,
        lambda key, rows: untouched(rows),
        every={"augment": np.zeros((1, NUM_LABELS), np.float32)},
        facts={"augment_dims": NUM_LABELS},
        augment=transform if probability else None,
    )
