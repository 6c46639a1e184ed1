"""What a network is told of an example: its class, words, numbers, or a picture.

A condition makes one entry of `cond`, and says what training, scoring and samples are
told in it. To be told nothing is `guidance.null_condition`: -1 for classes and words,
and 0 for numbers and pictures, whose last entry or channel is 1 where they are told, so
that no value means nothing by chance.

Arrays may be those of NumPy, before any device work, or of JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.conditions import captions
from score_sde.conditions.attributes import measured
from score_sde.data import Dataset, centres
from score_sde.measurements import Downsample
from score_sde.types import NO_LABEL, Key

Rows = Mapping[str, Any]
"""{"values": [batch, *dims] as the data are stored, "label": [batch], if there are}."""
Cond = dict[str, Any]
"""Name -> array [batch, ...]."""


class Condition(NamedTuple):
    """One entry of `cond`, as a dict with its name."""

    of_examples: Callable[[Rows], Cond]
    """What examples are told when they are scored."""
    in_training: Callable[[Key, Rows], Cond]
    """What they are told in training, where words change."""
    stated: Cond | None
    """What the config states for samples, [count, ...], told in turn; None for
    nothing."""
    unstated: Cond | None = None
    """What samples are then told, in turn; None for what held-out examples are."""


def label(stated: Sequence[int], *, num_classes: int) -> Condition:
    """The class, {"label": int [batch]}; unstated, every class in turn."""
    every = {"label": np.arange(num_classes, dtype=np.int32)}
    given = {"label": np.asarray(stated, np.int32)} if stated else None
    return _constant(lambda examples: {"label": examples["label"]}, given, every)


def words(caption: str, stated: Sequence[int]) -> Condition:
    """A caption of the class, {"words": int [batch, length]}, of `data/captions.py`.

    Training draws its words anew.

    Args: `caption` of all samples; '' for those of the classes `stated`, and if there
    are none either, of every class in turn.
    """

    def told(examples: Rows) -> Cond:
        return {"words": captions.caption_of(examples["label"])}

    def drawn(key: Key, examples: Rows) -> Cond:
        return {"words": captions.random_captions(key, examples["label"])}

    every = {"words": captions.TABLE[0, :NO_LABEL]}
    given = None
    if caption:
        given = {"words": captions.tokens(caption)[None]}
    elif stated:
        given = {"words": captions.TABLE[0, list(stated)]}
    return Condition(told, drawn, given, every)


def vector(
    names: Sequence[str],
    stated: Sequence[float],
    *,
    examples: Any,
    num_levels: int | None,
) -> Condition:
    """Attributes of the image, {"vector": [batch, names + 1]}, of `data/attributes.py`.

    In standard deviations from their mean over training examples, and a 1 behind them;
    unstated, those of held-out examples.

    Args: `stated`, one of each name; `examples` of the training data.
    """
    known = measured(names, centres(examples, num_levels=num_levels))
    mean, std = known.mean(0, keepdims=True), known.std(0, keepdims=True)

    def in_units(attributes: Any) -> Cond:
        xp = attributes.__array_namespace__()
        told = xp.ones((len(attributes), 1), attributes.dtype)
        return {"vector": xp.concatenate([(attributes - mean) / std, told], axis=1)}

    def told(examples: Rows) -> Cond:
        x = centres(examples["values"], num_levels=num_levels)
        return in_units(measured(names, x))

    given = in_units(np.asarray([stated], np.float32)) if stated else None
    return _constant(told, given)


def image(
    make: Callable[[Any], Any], stated: np.ndarray | None, *, num_levels: int | None
) -> Condition:
    """A picture of the image, {"image": [batch, height, width, channels + 1]}.

    Behind it a channel of ones; unstated, that of held-out examples.

    Args: `make(x)` makes it of images in [-1, 1]; `stated`, the levels of one image, of
    which it is made for all samples.
    """

    def told(examples: Rows) -> Cond:
        picture = make(centres(examples["values"], num_levels=num_levels))
        xp = picture.__array_namespace__()
        return {"image": xp.concatenate([picture, xp.ones_like(picture[..., :1])], -1)}

    given = None if stated is None else told({"values": stated[None]})
    return _constant(told, given)


def small(x: Any, *, factor: int) -> Any:
    """Means over blocks of factor x factor pixels, each as large as its block."""
    return Downsample(factor)(x).repeat(factor, axis=1).repeat(factor, axis=2)


def silhouette(x: Any) -> Any:
    """1 where the mean over colours is above the middle, -1 elsewhere."""
    bright = (x.mean(-1, keepdims=True) > 0).astype(x.dtype)
    return 2 * bright - 1


IMAGES: dict[str, Callable[..., Any]] = {"small": small, "silhouette": silhouette}


def _constant(
    told: Callable[[Rows], Cond], stated: Cond | None, unstated: Cond | None = None
) -> Condition:
    """A condition that is the same whenever an example comes up."""
    return Condition(told, lambda key, examples: told(examples), stated, unstated)


def of_examples(conditions: Sequence[Condition], examples: Rows) -> Cond | None:
    """What examples are told of all conditions; None of none."""
    return _joined([c.of_examples(examples) for c in conditions])


def in_training(
    conditions: Sequence[Condition], key: Key, examples: Rows
) -> Cond | None:
    """What examples are told in training."""
    return _joined([c.in_training(key, examples) for c in conditions])


def of_samples(
    conditions: Sequence[Condition], dataset: Dataset, index: np.ndarray
) -> Cond | None:
    """What the samples of these numbers are told, in NumPy.

    Where one condition is that of held-out examples, so is every one that is not
    stated, or a class would contradict a picture.
    """
    fixed = [c.stated or c.unstated for c in conditions]
    if all(part is not None for part in fixed):
        return _joined([in_turn(part, index) for part in fixed if part])
    rows = dataset.test[index % len(dataset.test)]
    return _joined(
        [
            in_turn(c.stated, index) if c.stated else c.of_examples(rows)
            for c in conditions
        ]
    )


def of_blank(conditions: Sequence[Condition], shape: tuple[int, ...]) -> Cond | None:
    """What one black image of class 0 is told, in NumPy: for shapes and types."""
    blank = {"values": np.zeros((1, *shape), np.uint8), "label": np.zeros(1, np.int32)}
    return of_examples(conditions, blank)


def _joined(parts: Sequence[Cond]) -> Cond | None:
    return {name: a for part in parts for name, a in part.items()} or None


def in_turn(part: Cond, index: np.ndarray) -> Cond:
    """The rows of these numbers, which begin anew past the last."""
    return jax.tree.map(lambda a: a[index % len(a)], part)
