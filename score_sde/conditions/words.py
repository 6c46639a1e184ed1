"""A caption of an example as a condition."""

from __future__ import annotations

from typing import Any

from score_sde.conditions import captions
from score_sde.conditions.condition import Cond, Condition, Rows, stated
from score_sde.data import Dataset
from score_sde.types import NO_LABEL, Key


def words(*, dataset: Dataset, samples: tuple[str, ...] = ()) -> Condition:
    """A caption of the class, {"words": int [batch, length]}, of `captions`.

    Training draws its words anew at every step.

    Args:
        dataset: one of digits, the classes that the captions name.
        samples: the captions of samples, in turn; () for one of every class.

    Raises:
        ValueError: for data that are no digits, or an unknown word.
    """
    if dataset.num_classes != len(captions.NUMBERS):
        raise ValueError(
            f"{dataset.name} has no captions; they are of {len(captions.NUMBERS)} "
            "digits."
        )

    def state(value: Any) -> Cond:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no caption; give words.")
        return {"words": captions.tokens(value)[None]}

    def of_examples(rows: Rows) -> Cond:
        return {"words": captions.caption_of(rows["label"])}

    def in_training(key: Key, rows: Rows) -> Cond:
        return {"words": captions.random_captions(key, rows["label"])}

    return Condition(
        of_examples,
        in_training,
        samples=stated(state, samples),
        every={"words": captions.TABLE[0, :NO_LABEL]},
        facts={"num_words": len(captions.WORDS)},
        state=state,
    )
