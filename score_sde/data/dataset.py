"""What a data set is, how its values are scaled, and which batch comes at which step.

Images are stored as integers 0 .. num_levels - 1. Scaling to [-1, 1] and its inverse
are here and nowhere else: level k fills the bin [2k/L - 1, 2(k+1)/L - 1), of width 2/L.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import example_keys, per_example
from score_sde.types import Array, Key, UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A train and a test split in memory."""

    name: str
    train: np.ndarray
    """[examples, *shape]: integers for images, floats for points."""
    test: np.ndarray
    num_levels: int | None
    """Grey levels of the stored integers; None for continuous points."""
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    num_classes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.shape[1:]

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """(values, labels) of the 'train' or the 'test' split."""
        if name == "train":
            return self.train, self.train_labels
        if name == "test":
            return self.test, self.test_labels
        raise ValueError(f"unknown split {name!r}; choose from ['test', 'train'].")


ABSENT = "absent"


def absent(
    shape: tuple[int, ...], *, num_levels: int | None, num_classes: int
) -> Dataset:
    """The format of data that are not here, without an example."""
    kind = np.float32 if num_levels is None else np.uint8
    examples, labels = np.zeros((0, *shape), kind), None
    if num_classes:
        labels = np.zeros(0, np.int32)
    return Dataset(ABSENT, examples, examples, num_levels, labels, labels, num_classes)


def dequantise(key: Key, values: Array, *, num_levels: int | None) -> Array:
    """Levels to [-1, 1) with uniform noise that fills each bin (Uria et al. 2013).

    The noise of example i is a function of (key, i). Points pass unchanged.
    """
    x = values.astype(jnp.float32)
    if num_levels is None:
        return x
    noise = per_example(jr.uniform, example_keys(key, x.shape[0]), x)
    return 2 * (x + noise) / num_levels - 1


def centres(values: Array, *, num_levels: int | None) -> Array:
    """Levels to the centres of their bins in [-1, 1]; points pass unchanged."""
    x = values.astype(jnp.float32)
    return x if num_levels is None else (2 * x + 1) / num_levels - 1


def to_levels(x: Array, *, num_levels: int | None) -> Array:
    """The level whose bin holds x, clipped to the range: the inverse of dequantise."""
    if num_levels is None:
        return x
    level = jnp.floor((x + 1) * (num_levels / 2))
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.uint8)


def flip_at_random(key: Key, images: Array) -> Array:
    """Mirror each image, [batch, height, width, channels], with probability a half."""
    keys = example_keys(key, images.shape[0])
    coins = jax.vmap(jr.bernoulli)(keys).reshape(-1, 1, 1, 1)
    return jnp.where(coins, images[:, :, ::-1], images)


def batch_at(
    dataset: Dataset, *, seed: int, step: int, batch_size: int
) -> dict[str, Any]:
    """The training batch of a step: {"values": ..., "label": ... if there are any}.

    A function of (seed, step) alone, so that a run can start at any step. Epoch after
    epoch every example comes once, in an order drawn from (seed, epoch); batches run
    on across epochs and none is dropped.
    """
    num_examples = len(dataset.train)
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, num_examples)
    index = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        now = epochs == epoch
        index[now] = _order(seed, int(epoch), num_examples)[offsets[now]]
    batch = {"values": dataset.train[index]}
    if dataset.train_labels is not None:
        batch["label"] = dataset.train_labels[index]
    return batch


def require_examples(examples: np.ndarray) -> None:
    """Raises: UserError if there are none, as of absent data."""
    if not len(examples):
        raise UserError(
            "the data are not here: data.name is 'absent'. Name those to be used by "
            "--config.data.name; an imported model that is to be trained on them must "
            "be imported with it."
        )


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    sequence = np.random.SeedSequence((seed, epoch))
    return np.random.Generator(np.random.PCG64(sequence)).permutation(num_examples)
