"""Data in files: a folder or a zip archive of pictures, or an npz file of arrays.

`pictures.py` says where pictures have their labels, `npz.py` how arrays are called.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data import npz
from score_sde.data.dataset import Dataset, Examples, Format
from score_sde.data.decoded import offering_conversion
from score_sde.data.identity import identity_of_files
from score_sde.data.listing import listing, say_once
from score_sde.data.local import local_path
from score_sde.data.picture_file import shape_of
from score_sde.data.pictures import folders_of, pictures
from score_sde.data.units import AS_STORED, Units
from score_sde.types import UserError

FILES = "files"
HELD_OUT = 20
"""Without a place for test data, one example in so many is held out for them."""
LEVELS = 256
"""Grey levels of pictures, unless they are stated."""


def files(
    format: Format,
    path: str,
    test_path: str,
    *,
    units: Units = AS_STORED,
    sigma_data: float | None = None,
) -> Dataset:
    """Make the data set of the files at a path.

    Args:
        format: of one example.
        path: where the examples are.
        test_path: where those of the test split are. If it is empty, every 20th example
            at `path` is held out; if it is the same path, both splits are all of it.
        units: the map from the values in the files to the user's units.
        sigma_data: the standard deviation of all values, if it is known.

    Raises:
        UserError: if a path is an address such as gs://bucket/data.
    """
    place = local_path(path, "data.path")
    test_place = local_path(test_path, "data.test_path") if test_path else None
    return Dataset(
        FILES,
        *format,
        partial(_open, format, place, test_place),
        units,
        sigma_data,
        partial(_identify, [place, *([test_place] if test_place else [])]),
    )


def described_files(path: str, stated: dict[str, Any], test_path: str) -> Dataset:
    """Make the data set of files whose format they say themselves, as far as they do.

    Args:
        path: where the examples are.
        stated: shape, num_levels (0 for floats), num_classes, shift and scale; None or
            () for each that is not stated.
        test_path: where those of the test split are; see `files`.

    Raises:
        UserError: if what is stated is not what the files say, or the format is neither
            stated nor there.
    """
    place = local_path(path, "data.path")
    recorded = npz.described(place) if place.suffix == ".npz" else npz.NOTHING
    facts = {**recorded.measured, **recorded.stated}
    for name, value in stated.items():
        if value is None or value == ():
            continue
        told, is_off = recorded.stated.get(name, value), name == "num_classes"
        if told != value and not (is_off and value == 0):  # labels need not be used
            raise UserError(
                f"{name} is {value}, and {place} says {told}: leave data.{name} out."
            )
        facts[name] = value
    if "shape" not in facts:
        facts["shape"] = _shape_of_first(place)
    if test_path:
        _check_alike(place, facts, local_path(test_path, "data.test_path"))
    levels = facts.get("num_levels", LEVELS)
    format = Format(tuple(facts["shape"]), levels or None, facts.get("num_classes", 0))
    units = Units(tuple(facts.get("shift", ())), tuple(facts.get("scale", ())))
    if problem := units.problem(format.shape):
        raise UserError(f"{problem}.")
    dataset = files(
        format, path, test_path, units=units, sigma_data=facts.get("sigma_data")
    )
    return dataclasses.replace(dataset, found=dataset.facts)


def _check_alike(place: Path, facts: dict[str, Any], test_place: Path) -> None:
    """Check that prepared test data have the units and classes of those to train on."""
    if test_place.suffix != ".npz" or test_place == place:
        return
    told = npz.described(test_place).stated
    for name in ("shift", "scale", "classes"):
        here = facts.get(name, ())
        matters = name != "classes" or facts.get("num_classes", 0)
        if told and matters and told[name] != here:
            raise UserError(
                f"data.test_path is {test_place}, whose {name} is {told[name]}; that "
                f"of {place} is {here}. Prepare it like the other: score-sde "
                f"prepare-data --from=... --to=... --like={place}"
            )


def _check_folders(place: Path, test_place: Path) -> None:
    """Check that classes that are folders are the same ones in both splits."""
    if test_place == place or not (place.exists() and test_place.exists()):
        return
    both = [listing(one) for one in (place, test_place)]
    if any(one.has_table for one in both):
        return
    known, found = (folders_of(one.names) for one in both)
    if known != found:
        raise UserError(
            f"{test_place} has the classes {found}, and {place} {known}: they would "
            "not have the same numbers."
        )


def _shape_of_first(place: Path) -> tuple[int, ...]:
    """The shape of the first picture at a place."""
    if not place.exists():
        raise UserError(
            f"there is no {place}, and data.shape does not state the shape of its "
            "examples."
        )
    with offering_conversion(place):
        found = listing(place)
        name = found.names[0]
        return shape_of(found.read(name), f"{place}: {found.root}{name}")


def _open(format: Format, place: Path, test_place: Path | None, split: str) -> Examples:
    def part(count: int) -> np.ndarray:
        rows = np.arange(count)
        if test_place:
            return rows
        return rows[(rows % HELD_OUT == HELD_OUT - 1) == (split == "test")]

    here = test_place if test_place and split == "test" else place
    if not here.exists():
        raise UserError(f"there is no {here}; the data should be there: {format}.")
    with offering_conversion(here):
        if here.suffix == ".npz" and here.is_file():
            try:
                return npz.arrays(here, format, part)
            except (zipfile.BadZipFile, struct.error) as error:
                raise UserError(
                    f"{here} is no folder, .zip or .npz file, or a broken one "
                    f"({error})."
                ) from None
        if format.num_classes and test_place and split == "test":
            _check_folders(place, test_place)
        found = listing(here)
        if note := found.note():
            say_once(note)
        return pictures(found, format, part)


def _identify(places: list[Path], dataset: Dataset) -> dict[str, Any]:
    """The identity of the files at some places, as they are now."""
    paths: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"there is no {place}; the data should be there.")
        whole = Path(os.path.realpath(place))
        paths += listing(whole).paths() if whole.is_dir() else [whole]
    return identity_of_files(dataclasses.replace(dataset), paths)
