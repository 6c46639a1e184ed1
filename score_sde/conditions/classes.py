"""The class of an example as a condition."""

from __future__ import annotations

from typing import Any

import numpy as np

from score_sde.conditions.condition import Cond, Condition, constant, stated
from score_sde.data import Dataset
from score_sde.types import NO_LABEL


def label(*, dataset: Dataset, samples: tuple[int, ...] = ()) -> Condition:
    """The class of an example, {"label": int [batch]}.

    Args:
        dataset: one with labels.
        samples: the classes of samples, in turn, -1 for none; () for every class.

    Raises:
        ValueError: for data without labels, or a label that is no class.
    """
    num_classes = dataset.num_classes
    if not num_classes:
        raise ValueError(f"{dataset.name} has no classes to tell.")

    def state(value: Any) -> Cond:
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if not is_int or not NO_LABEL <= value < num_classes:
            raise ValueError(
                f"{value!r} is no class; choose from 0 to {num_classes - 1}, or "
                f"{NO_LABEL} for none."
            )
        return {"label": np.asarray([value], np.int32)}

    return constant(
        lambda rows: {"label": rows["label"]},
        samples=stated(state, samples),
        every={"label": np.arange(num_classes, dtype=np.int32)},
        facts={"num_classes": num_classes},
        state=state,
    )
