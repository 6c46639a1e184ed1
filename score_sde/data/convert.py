"""Converting a user's data, once, into an .npz file that the source `files` reads.

The file has the examples and, in `format`, all that a config would have to state:
shape, levels, classes, standard deviation, and the map back to the user's units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.convert_arrays import ARRAYS, TABLES, convert_arrays
from score_sde.data.convert_pictures import convert_pictures
from score_sde.data.local import local_path, replaced
from score_sde.data.npz import described
from score_sde.data.units import AS_STORED, Units
from score_sde.types import UserError


class Converted(NamedTuple):
    """A data set in memory, ready to be written."""

    values: np.ndarray
    """uint8 images [examples, height, width, channels], or float32 points."""
    num_levels: int
    """Grey levels; 0 for points."""
    labels: np.ndarray | None
    classes: tuple[str, ...]
    """Names of the classes, in the order of their numbers."""
    units: Units
    done: list[str]
    """What was done to how many, a line each."""

    @property
    def sigma_data(self) -> float:
        """The standard deviation of all values, as a network sees them."""
        if not self.num_levels:
            return float(np.std(self.values, dtype=np.float64))
        counts = np.bincount(self.values.ravel(), minlength=self.num_levels)
        shares, levels = counts / self.values.size, np.arange(self.num_levels)
        mean = (shares * levels).sum()
        std = np.sqrt((shares * (levels - mean) ** 2).sum())
        return float(2 * std / self.num_levels)

    @property
    def format(self) -> dict[str, Any]:
        """What the source `files` reads of a prepared file."""
        return {
            "shape": list(self.values.shape[1:]),
            "num_levels": self.num_levels,
            "num_classes": len(self.classes),
            "sigma_data": self.sigma_data,
            "shift": list(self.units.shift),
            "scale": list(self.units.scale),
            "classes": list(self.classes),
            "done": self.done,
        }


def convert(
    source: str,
    *,
    size: int = 0,
    labels: str = "",
    levels: int = 0,
    like: str = "",
) -> Converted:
    """Read data of any kind, and make examples of one format of them.

    Args:
        source: a folder or .zip archive of pictures, or an .npy, .npz or .csv file.
        size: side of images, whose central square is resized to it; 0 to keep theirs.
        labels: where labels are: 'folders' or a file for pictures, an array or a file
            for arrays, a column for tables; "" for the usual place, if there are any.
        levels: grey levels of images in arrays; 0 for 256.
        like: a prepared file, whose size, units and classes these data get, as those of
            a test split must have; "" for none.

    Raises:
        UserError: if that can't be done without more being said.
    """
    place = local_path(source, "--from")
    if not place.exists():
        raise UserError(f"--from is {source!r}; there is nothing.")
    facts = _facts(like) if like else {}
    shape = facts.get("shape", ())
    if len(shape) == 3 and facts["num_levels"] and shape[0] == shape[1]:
        size = size or shape[0]
    if place.is_file() and place.suffix.lower() in (*ARRAYS, *TABLES):
        found = convert_arrays(
            place, size=size, labels=labels, levels=levels, like=facts
        )
        values, num_levels, classes, units, done = found
    else:
        if levels:
            raise UserError("--levels is for arrays; pictures have 256.")
        images = convert_pictures(place, size=size, labels=labels, like=facts)
        values, classes, done = images
        num_levels, units = 256, AS_STORED
    made = Converted(
        values,
        num_levels,
        classes.labels if classes else None,
        classes.names if classes else (),
        units,
        done,
    )
    if not made.sigma_data > 0:
        raise UserError(f"{place}: all values are the same.")
    for name in ("shape", "num_levels") if facts else ():
        told, value = facts[name], made.format[name]
        if told != (tuple(value) if name == "shape" else value):
            raise UserError(f"{place}: {name} is {value}; that of --like is {told}.")
    return made


def _facts(like: str) -> dict[str, Any]:
    """The facts that a prepared file states of itself."""
    place = local_path(like, "--like")
    facts = described(place).stated if place.suffix == ".npz" else {}
    if not facts:
        raise UserError(
            f"--like is {like!r}; it must be a file that prepare-data wrote."
        )
    return facts


def checked_target(path: str) -> Path:
    """Turn the path of the file to write into one that can be written.

    Raises:
        UserError: if it is no .npz file on this machine, or there is one.
    """
    place = local_path(path, "--to")
    if place.suffix != ".npz":
        raise UserError(f"--to is {path!r}; its name must end in .npz.")
    if place.exists():
        raise UserError(
            f"--to is {path!r}, which is there; remove it, or name another."
        )
    return place


def write(made: Converted, place: Path) -> None:
    """Write a data set, whole or not at all."""
    arrays = {"images" if made.num_levels else "latents": made.values}
    if made.labels is not None:
        arrays["labels"] = made.labels
    arrays["format"] = np.asarray(json.dumps(made.format))
    with replaced(place) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
