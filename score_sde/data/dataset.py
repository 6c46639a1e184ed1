"""What a data set is: a format, known at once, and splits, opened when first read.

Images are stored as integers 0 .. num_levels - 1, points and latents as floats.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from score_sde.types import UserError

Rows = dict[str, np.ndarray]
"""{"values": [n, *shape], "label": int32 [n] if there are labels}."""


class Format(NamedTuple):
    """What one example is."""

    shape: tuple[int, ...]
    num_levels: int | None
    """Grey levels of the stored integers; None for points and latents."""
    num_classes: int = 0
    """0 if the examples come without labels."""

    def __str__(self) -> str:
        kind = f"uint8 below {self.num_levels}" if self.num_levels else "floats"
        classes = f", labels below {self.num_classes}" if self.num_classes else ""
        return f"{kind} of shape {self.shape}{classes}"


class Examples(Protocol):
    """One split: examples 0, 1, ..., read by their numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray, /) -> Rows: ...


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Examples that are arrays."""

    values: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        rows = {"values": np.take(self.values, index, axis=0)}
        if self.labels is not None:
            rows["label"] = self.labels[index]
        return rows


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A train and a test split of one `Format`: Dataset(name, *format, open_split)."""

    name: str
    shape: tuple[int, ...]
    num_levels: int | None
    num_classes: int
    open_split: Callable[[str], Examples] = dataclasses.field(repr=False)
    """Of 'train' or 'test'. Raises: UserError if they are not there, or broken."""

    @functools.cached_property
    def train(self) -> Examples:
        """The examples to train on."""
        return self._opened("train")

    @functools.cached_property
    def test(self) -> Examples:
        """The examples that training does not see."""
        return self._opened("test")

    def split(self, name: str) -> Examples:
        """`train` or `test`."""
        if name not in ("train", "test"):
            raise ValueError(f"unknown split {name!r}; choose from ['test', 'train'].")
        return getattr(self, name)

    def _opened(self, split: str) -> Examples:
        """The split; its first example is read, so that what is wrong shows early."""
        examples = self.open_split(split)
        if not len(examples):
            raise UserError(f"{self.name}: the {split} split has no examples.")
        examples[np.arange(1)]
        return examples

    def __reduce__(self) -> Any:
        """Open files stay in the process that opened them."""
        fields = (self.name, self.shape, self.num_levels, self.num_classes)
        return Dataset, (*fields, self.open_split)


ABSENT = "absent"


def absent(format: Format) -> Dataset:
    """Data of which nothing but the format is here."""
    return Dataset(ABSENT, *format, _not_here)


def _not_here(split: str) -> Examples:
    raise UserError(
        f"the {split} data are not here: data.name is 'absent'. Name those to be used "
        "by --config.data.name; an imported model that is to be trained on them must "
        "be imported with it."
    )
