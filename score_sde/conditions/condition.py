"""A condition: one entry of `cond`, and who is given which of its values.

To be told nothing is `guidance.null_condition`: -1 for classes and words, and 0 for
numbers and pictures, whose last entry or channel is 1 where they are given, so that no
value means nothing by chance. Arrays may be those of NumPy, before any device work, or
of JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.data import Dataset
from score_sde.types import Array, Key

Rows = Mapping[str, Any]
"""{"values": [batch, *dims] as the data are stored, "label": [batch], if there are}."""
Cond = dict[str, Any]
"""Name -> array [batch, ...]."""
NO_FACTS: Mapping[str, int] = MappingProxyType({})


def cannot_state(value: Any) -> Cond:
    """Refuse to turn a value into an entry: the default of `Condition.state`."""
    raise ValueError(f"{value!r} can't be stated of this condition.")


class SmallPicture(NamedTuple):
    """The small picture that a condition tells, which another stage may draw."""

    of_images: Callable[[Any], Any]
    """Images as points from -1 to 1 -> their small pictures, not rounded."""
    of_rows: Callable[[Rows], Any]
    """Examples -> their small pictures as they are told."""
    of_drawn: Callable[[Array], Cond]
    """The pictures that an earlier stage drew, as points of its own data, -> the entry
    that this stage is told."""
    problem: Callable[[Dataset], str | None]
    """Why an earlier stage of these data draws no such pictures; None if it does."""
    stops_at: float = 0.0
    """The noise level, in the scale of that stage, at which it ends; 0 for its end."""


class Condition(NamedTuple):
    """One entry of `cond`, as a dict with its name."""

    of_examples: Callable[[Rows], Cond]
    """The entry of examples that are scored."""
    in_training: Callable[[Key, Rows], Cond]
    """The entry of examples in training, where words are drawn."""
    samples: Cond | None = None
    """The entries that the config states for samples, [count, ...], taken in turn."""
    every: Cond | None = None
    """The entries of samples where the config states none; None for the entries of
    held-out examples."""
    facts: Mapping[str, int] = NO_FACTS
    """Arguments that the network is made with, such as {"num_classes": 10}."""
    state: Callable[[Any], Cond] = cannot_state
    """The entry [1, ...] of a value in a config, such as a label or a caption. Raises:
    ValueError that says what may be stated."""
    augment: Callable[[Key, Array], tuple[Array, Cond]] | None = None
    """(key, x0) -> (x0 changed at random, the entry that tells how), in training."""
    describes_values: bool = False
    """Whether the entry is computed from the values, so that it would not be true of
    augmented ones."""
    of_points: Callable[[Array], Cond] | None = None
    """Points of images -> the entry, where it is one of the points that were drawn in
    the bins of the levels, and not of the levels."""
    small: SmallPicture | None = None
    """The small picture that the entry is of; None for any other entry."""
    has_null: bool = True
    """Whether an entry that tells nothing differs from all that tell something, so that
    training can leave the condition out."""
    in_sampling: Callable[[Key, Cond], Cond] | None = None
    """(one key per sample, the entry) -> the entry with the noise that a sample is
    told, drawn once for all of its steps."""


def constant(of_examples: Callable[[Rows], Cond], **fields: Any) -> Condition:
    """Make a condition whose entry is the same whenever an example comes up."""
    return Condition(of_examples, lambda key, rows: of_examples(rows), **fields)


def stated(state: Callable[[Any], Cond], values: Sequence[Any]) -> Cond | None:
    """The entries of several values of a config, one behind the other; None for none.

    Raises: ValueError that begins with "samples", the option that has the values.
    """
    try:
        parts = [state(value) for value in values]
    except ValueError as error:
        raise ValueError(f"samples: {error}") from None
    if not parts:
        return None
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def of_examples(conditions: Sequence[Condition], examples: Rows) -> Cond | None:
    """The condition of examples, with an entry of each; None without any."""
    return _joined([c.of_examples(examples) for c in conditions])


def in_training(
    conditions: Sequence[Condition], key: Key, examples: Rows
) -> Cond | None:
    """The condition of examples in training, before any augmentation."""
    return _joined(
        [c.in_training(key, examples) for c in conditions if c.augment is None]
    )


def augmented(
    conditions: Sequence[Condition], key: Key, x0: Array
) -> tuple[Array, Cond]:
    """Training's x0 after every augmentation, and the entries that tell of them."""
    told: Cond = {}
    for c in conditions:
        if c.augment is not None:
            x0, entry = c.augment(key, x0)
            told |= entry
    return x0, told


def of_points(conditions: Sequence[Condition], x: Array) -> Cond:
    """The entries that are of points and not of levels; {} for none."""
    return _joined([c.of_points(x) for c in conditions if c.of_points]) or {}


def in_sampling(conditions: Sequence[Condition], keys: Key, cond: Any) -> Any:
    """Return what samples are told, with noise in the entries that have some."""
    for number, c in enumerate(conditions):
        if c.in_sampling is not None:
            own = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)  # noqa: B023
            cond = {**cond, **c.in_sampling(own, cond)}
    return cond


def small_picture(conditions: Sequence[Condition]) -> SmallPicture | None:
    """The small picture that one of the conditions tells, if one does."""
    return next((c.small for c in conditions if c.small is not None), None)


def of_drawn(conditions: Sequence[Condition], points: Array, index: np.ndarray) -> Cond:
    """The condition of samples whose small pictures an earlier stage drew, in NumPy.

    Args:
        conditions: all but that of the picture with stated or own values, taken in
            turn.
        points: the drawn pictures, as points of the data of that stage.
        index: the numbers of the samples.
    """
    parts = []
    for c in conditions:
        if c.small is not None:
            parts.append(jax.tree.map(np.asarray, c.small.of_drawn(points)))
        else:
            parts.append(in_turn(c.samples or c.every or {}, index))
    return _joined(parts) or {}


def of_samples(
    conditions: Sequence[Condition], dataset: Dataset, index: np.ndarray
) -> Cond | None:
    """The condition of the samples with these numbers, in NumPy.

    Where one entry is that of held-out examples, so is every one that is not stated, or
    a class would contradict a picture.
    """
    fixed = [c.samples or c.every for c in conditions]
    if all(part is not None for part in fixed):
        return _joined([in_turn(part, index) for part in fixed if part])
    rows = dataset.test[index % len(dataset.test)]
    return _joined(
        [
            in_turn(c.samples, index) if c.samples else c.of_examples(rows)
            for c in conditions
        ]
    )


def of_blank(conditions: Sequence[Condition], shape: tuple[int, ...]) -> Cond | None:
    """The condition of one black image of class 0, in NumPy: for shapes and types."""
    blank = {"values": np.zeros((1, *shape), np.uint8), "label": np.zeros(1, np.int32)}
    return of_examples(conditions, blank)


def in_turn(part: Cond, index: np.ndarray) -> Cond:
    """The rows with these numbers, which begin anew past the last."""
    return jax.tree.map(lambda a: a[index % len(a)], part)


def _joined(parts: Sequence[Cond]) -> Cond | None:
    return {name: a for part in parts for name, a in part.items()} or None
