"""A data set: a format, known at once, and splits, opened when first read.

Images are stored as integers 0 .. num_levels - 1, points and latents as floats.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from score_sde.data.units import AS_STORED, Units
from score_sde.types import UserError

Rows = dict[str, np.ndarray]
"""Examples read together: {"values": [n, *shape], "label": int32 [n] if there are any}.
"""


class Format(NamedTuple):
    """Shape, levels and number of classes of one example."""

    shape: tuple[int, ...]
    num_levels: int | None
    """Grey levels of the stored integers; None for points and latents."""
    num_classes: int = 0
    """Number of classes of the labels; 0 if the examples come without labels."""

    def __str__(self) -> str:
        kind = f"uint8 below {self.num_levels}" if self.num_levels else "floats"
        classes = f", labels below {self.num_classes}" if self.num_classes else ""
        return f"{kind} of shape {self.shape}{classes}"


class Examples(Protocol):
    """One split: examples 0, 1, ..., read by their numbers.

    A split whose examples are costly to decode may have a second way to read them:
    `contents(index)`, an iterator of bytes, by which alone `identity` knows them.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray, /) -> Rows: ...


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Examples that are arrays in memory."""

    values: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        rows = {"values": np.take(self.values, index, axis=0)}
        if self.labels is not None:
            rows["label"] = self.labels[index]
        return rows


class Part(NamedTuple):
    """The part of images that a model is of, where rows hold the whole images."""

    images: Dataset
    """The data that the rows are of."""
    take: Callable[[Any], Any]
    """Points of images, [batch, *shape of an image], -> points of the part."""
    told: Callable[[Any], Any] | None
    """Points of images -> the picture that the part is drawn beside; None for none."""
    join: Callable[[Any, Any], Any]
    """(that picture, points of the part) -> the picture that both make."""
    noise: float = 1.0
    """The deviation of the part where every pixel of an image has noise of deviation 1.
    """


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A train and a test split of one `Format`: Dataset(name, *format, open_split).

    Attributes:
        name: of the source, as a config names it.
        shape: of one example.
        num_levels: grey levels of the stored integers; None for points and latents.
        num_classes: number of classes of the labels; 0 for none.
        open_split: opens 'train' or 'test', and raises UserError if the split is not
            there, or broken.
        units: the map from what a model sees to the user's units; points alone have one
            that changes anything.
        sigma_data: the standard deviation of all values, where the files record it.
        identify: computes `identity` in a cheaper way than reading every example.
        found: options of the source that it read from the data: a run keeps them, and
            then knows its format and its units where the data are gone.
        origin: the data whose latents these are; None for data that are shown as they
            are.
        made_by: role -> the checksum of the parameters of the run that made these
            latents, and decodes them.
        decoder_std: root mean squared error of images that are decoded from latents.
        part: how the data are a part of the images that the rows hold; None for rows
            that hold the data themselves.
    """

    name: str
    shape: tuple[int, ...]
    num_levels: int | None
    num_classes: int
    open_split: Callable[[str], Examples] = dataclasses.field(repr=False)
    units: Units = AS_STORED
    sigma_data: float | None = None
    identify: Callable[[Dataset], dict[str, Any]] | None = dataclasses.field(
        default=None, repr=False
    )
    found: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    origin: Dataset | None = dataclasses.field(default=None, repr=False)
    made_by: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    decoder_std: float = 0.0
    part: Part | None = dataclasses.field(default=None, repr=False)

    @property
    def format(self) -> Format:
        """Shape, levels and number of classes of one example."""
        return Format(self.shape, self.num_levels, self.num_classes)

    @property
    def shown(self) -> Dataset:
        """The data that samples are compared with, and shown like."""
        return self if self.origin is None else self.origin

    @property
    def stored(self) -> Dataset:
        """The data as the rows hold them: of a part, the whole images."""
        return self if self.part is None else self.part.images

    @property
    def facts(self) -> dict[str, Any]:
        """All that is known without the data, as options of the source `files`."""
        return {
            "shape": self.shape,
            "num_levels": self.num_levels or 0,
            "num_classes": self.num_classes,
            "shift": self.units.shift,
            "scale": self.units.scale,
        }

    @property
    def log_scale(self) -> float:
        """Log-determinant of the map to the user's units, in nats; 0 without one.

        log p(u) = log p(x) - log_scale for u = to_units(x).
        """
        return self.units.log_scale(self.shape)

    def to_units(self, x: Any) -> Any:
        """Turn values that a model sees or draws into the user's units."""
        return self.units.to_units(x)

    def from_units(self, u: Any) -> Any:
        """Turn values in the user's units into what a model sees."""
        return self.units.from_units(u)

    @functools.cached_property
    def train(self) -> Examples:
        """The examples to train on."""
        return self._opened("train")

    @functools.cached_property
    def test(self) -> Examples:
        """The examples that training does not see."""
        return self._opened("test")

    def split(self, name: str) -> Examples:
        """Return `train` or `test`.

        Raises:
            ValueError: for another name.
        """
        if name not in ("train", "test"):
            raise ValueError(f"unknown split {name!r}; choose from ['test', 'train'].")
        return getattr(self, name)

    def _opened(self, split: str) -> Examples:
        """Open a split and read its first example, so that mistakes show early."""
        examples = self.open_split(split)
        if not len(examples):
            raise UserError(f"{self.name}: the {split} split has no examples.")
        examples[np.arange(1)]
        return examples

    def __reduce__(self) -> Any:
        """Leave open files in the process that opened them."""
        return Dataset, tuple(getattr(self, f.name) for f in dataclasses.fields(self))


ABSENT = "absent"


def absent(format: Format) -> Dataset:
    """Make a data set of which nothing but the format is here."""
    return Dataset(ABSENT, *format, _not_here)


def _not_here(split: str) -> Examples:
    raise UserError(
        f"the {split} data are not here: data.name is 'absent'. Name those to be used "
        "by --config.data.name; an imported model that is to be trained on them must "
        "be imported with it."
    )
