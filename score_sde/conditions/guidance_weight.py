"""The weight of classifier-free guidance, told to a student that has learned them all.

A student of a guided teacher knows one weight; told the weight, it knows a range of
them, and one evaluation takes the place of two (Meng et al. 2023, sec. 3.2).
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import example_keys
from score_sde.conditions.condition import Cond, Condition, Rows, stated
from score_sde.data import Dataset
from score_sde.rules import Finite
from score_sde.types import Key

GUIDANCE = "guidance"
NUM_WEIGHTS = 7
"""Weights of samples where none is stated: prime, so that every class meets them all.
"""


def guidance_weight(
    *,
    dataset: Dataset,
    low: Annotated[float, Finite] = 1.0,
    high: Annotated[float, Finite] = 5.0,
    samples: tuple[float, ...] = (),
) -> Condition:
    """The weight with which the teacher is guided, {"guidance": float [batch]}.

    It is drawn anew at every step of training, uniform from `low` to `high`. Examples
    that are scored are told 1, or what is nearest to it.

    Args:
        dataset: not used.
        low: the least weight.
        high: the greatest weight.
        samples: the weights of samples, in turn; () for some of the whole range.

    Raises:
        ValueError: for a range that is none, and a weight outside of it.
    """
    del dataset
    if not low < high:
        raise ValueError(f"low is {low}; it must be below high, {high}.")

    def state(value: Any) -> Cond:
        is_number = isinstance(value, (int, float)) and math.isfinite(value)
        if not is_number or not low <= value <= high:
            raise ValueError(f"{value!r} is no weight from {low} to {high}.")
        return {GUIDANCE: np.asarray([value], np.float32)}

    def of_examples(rows: Rows) -> Cond:
        plain = min(max(1.0, low), high)
        return {GUIDANCE: np.full(len(rows["values"]), plain, np.float32)}

    def in_training(key: Key, rows: Rows) -> Cond:
        keys = example_keys(key, len(rows["values"]))
        share = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
        return {GUIDANCE: low + (high - low) * share}

    return Condition(
        of_examples,
        in_training,
        samples=stated(state, samples),
        every={GUIDANCE: np.linspace(low, high, NUM_WEIGHTS, dtype=np.float32)},
        state=state,
    )
