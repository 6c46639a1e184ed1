"""Converting arrays: images of any layout to levels, points and series to unit scale.

Whole numbers from 0 to 255 of rank 3 or 4 are images, and so are floats that are such
numbers, or such numbers scaled to [0, 1] or [-1, 1]. All else are points: every column
of a table, or channel of a series, is shifted and scaled to mean 0 and standard
deviation 1, and how is recorded, so that the user's units are known.
"""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.classes import Classes, classes_of
from score_sde.data.local import local_path
from score_sde.data.npz import FORMAT, read_arrays
from score_sde.data.tfds import fit
from score_sde.data.units import AS_STORED, Units, num_repeating
from score_sde.types import UserError

TABLES = (".csv", ".tsv", ".txt")
ARRAYS = (".npy", ".npz")
VALUES = ("images", "latents", "values", "data", "x", "X", "x_train", "arr_0")
LABELS = ("labels", "label", "y", "Y", "y_train", "targets")
"""Names of arrays in an .npz file that are taken, the first that is there."""
CHANNELS = (1, 3, 4)


class Found(NamedTuple):
    """The arrays of a file."""

    values: np.ndarray
    labels: Any
    """[examples] or [examples, classes], of any kind; None for none."""
    done: list[str]


class Arrays(NamedTuple):
    """Arrays that were converted."""

    values: np.ndarray
    """uint8 images, or float32 points of unit scale."""
    num_levels: int
    """0 for points."""
    classes: Classes | None
    units: Units
    done: list[str]
    """What was done to how many, a line each."""


def convert_arrays(
    place: Path, *, size: int, labels: str, levels: int, like: Mapping[str, Any]
) -> Arrays:
    """Read the arrays of a file, and turn them into examples.

    Args:
        place: an .npy, .npz or .csv file.
        size: side of images; 0 to keep theirs.
        labels: an array of the .npz file, a column of the .csv file, or another file of
            either kind; "" for an array of `LABELS` if it is there.
        levels: grey levels of images; 0 for 256.
        like: the facts of data that these must be like, whose shift, scale and classes
            they get; {} for none.

    Raises:
        UserError: if they can't be turned into examples without more being said.
    """
    values, raw, done = _read(place, labels)
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        raise UserError(
            f"{place} has {values.dtype} of shape {values.shape}; expected numbers, an "
            "example in each row."
        )
    if raw is not None and len(raw) != len(values):
        raise UserError(
            f"{place} has {len(values):,} examples and {len(raw):,} labels."
        )
    whole = as_levels(values) if values.ndim in (3, 4) else None
    units = AS_STORED
    if whole is not None:
        if whole.dtype != values.dtype:
            done.append(f"{values.dtype} to whole numbers from 0 to 255")
        usual = 2 if values.dtype.kind == "b" else 256
        levels = levels or like.get("num_levels", 0) or usual
        values, said = _images(whole, size, levels, place)
    else:
        if size or levels:
            raise UserError(
                f"{place} has no images: --size and --levels are for those."
            )
        good = np.isfinite(values).all(tuple(range(1, values.ndim)))
        if not good.all():
            done.append(f"left out, not finite: {np.count_nonzero(~good):,}")
            values, raw = values[good], None if raw is None else np.asarray(raw)[good]
        told = Units(like.get("shift", ()), like.get("scale", ()))
        values, units, said = _points(values, place, told)
        levels = 0
    names = like.get("classes", ())
    classes = None if raw is None else classes_of(raw, f"{place}: labels", names)
    said += [classes.done] if classes else []
    return Arrays(values, levels, classes, units, done + said)


def as_levels(values: np.ndarray) -> np.ndarray | None:
    """Turn numbers into levels from 0 to 255 if that changes none; None if it does."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype == np.uint8 or not values.size:
        return values if values.dtype == np.uint8 else None
    low, high = values.min(), values.max()
    if values.dtype.kind in "iu":
        return values.astype(np.uint8) if low >= 0 and high <= 255 else None
    # Of k/255 in half precision, 2^-11 of the value is lost.
    spare = 255 * 2.0**-11 if values.dtype == np.float16 else 1e-3
    for start, stop in ((0, 1), (-1, 1), (0, 255)):
        if low >= start and high <= stop:  # NaN is neither
            exact = (values.astype(np.float32) - start) * (255 / (stop - start))
            levels = np.round(exact)
            if np.abs(exact - levels).max() <= spare:
                return levels.astype(np.uint8)
    return None


def _images(
    values: np.ndarray, size: int, levels: int, place: Path
) -> tuple[np.ndarray, list[str]]:
    """Images as [examples, height, width, channels], and what was done to them."""
    done = []
    if values.ndim == 3:
        values = values[..., None]
    elif values.shape[-1] not in CHANNELS:
        if values.shape[1] not in CHANNELS:
            raise UserError(
                f"{place} has whole numbers of shape {values.shape}; expected images, "
                f"with an axis of {CHANNELS} channels."
            )
        values = np.moveaxis(values, 1, -1)
        done.append("channels moved to the last axis")
    elif values.shape[1] in CHANNELS:
        done.append(f"the last axis, of {values.shape[-1]}, is taken for the channels")
    if values.max(initial=0) >= levels:
        raise UserError(f"{place} has the level {values.max()}; --levels is {levels}.")
    if size and values.shape[1:3] != (size, size):
        shape = (size, size, values.shape[-1])
        done.append(f"cut and resized from {values.shape[1:3]}: {len(values):,}")
        values = np.stack([fit(_flat(a), shape).reshape(shape) for a in values])
    if levels == 256 and values.max(initial=0) < 128:
        done.append(
            f"no level is above {values.max()}, of 256: dark, unless --levels tells "
            "how many there are"
        )
    return values, done


def _flat(image: np.ndarray) -> np.ndarray:
    """An image as Pillow takes it: grey without its axis."""
    return image[..., 0] if image.shape[-1] == 1 else image


def _points(
    values: np.ndarray, place: Path, told: Units
) -> tuple[np.ndarray, Units, list[str]]:
    """Points of mean 0 and standard deviation 1, the way back, and what was done.

    Args:
        values: of any rank and type.
        place: where they are from, for errors.
        told: shift and scale of other data; `AS_STORED` for their own.
    """
    if values.ndim == 1:
        values = values[:, None]
    wide = values.astype(np.float64)
    if told.scale:
        if problem := told.problem(wide.shape[1:]):
            raise UserError(f"{place}: {problem}.")
        return told.from_units(wide), told, ["shifted and scaled as the other data"]
    if len(wide) < 2:
        raise UserError(f"{place} has {len(wide)} finite examples; expected many.")
    axes = tuple(range(wide.ndim - 1))
    shift, scale = wide.mean(axes), wide.std(axes)
    constant = wide.min(axes) == wide.max(axes)
    if constant.all():
        raise UserError(f"{place}: all examples are the same.")
    scale[constant] = 1.0
    if not (np.isfinite(shift).all() and np.isfinite(scale).all()):
        raise UserError(f"{place} has numbers up to {np.abs(wide).max():.3g}.")
    units = Units(tuple(shift.tolist()), tuple(scale.tolist()))
    if problem := units.problem(wide.shape[1:]):
        raise UserError(f"{place}: {problem}.")
    done = [
        f"shifted by {_range(-shift)} and divided by {_range(scale)}, for mean 0 and "
        f"standard deviation 1: {len(wide):,} examples of shape {wide.shape[1:]}"
    ]
    if constant.any():
        done.append(f"constant, and only shifted: {np.count_nonzero(constant)} columns")
    if repeating := num_repeating(wide):
        done.append(
            f"of the same few values over and over: {repeating} of "
            f"{math.prod(wide.shape[1:])} numbers; their density has no upper limit: "
            "leave them out where you want likelihoods"
        )
    return units.from_units(wide), units, done


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _read(place: Path, labels: str) -> Found:
    """The values and the labels of a file."""
    elsewhere = local_path(labels, "--labels") if labels else None
    of_file = elsewhere is not None and elsewhere.is_file()
    inside = "" if of_file else labels
    found = READERS[place.suffix.lower()](place, inside)
    if elsewhere is None or not of_file:
        return found
    raw = READERS.get(elsewhere.suffix.lower(), _no_reader)(elsewhere, "")
    return found._replace(labels=raw.values)


def _from_npy(place: Path, labels: str) -> Found:
    if labels:
        raise UserError(f"--labels is {labels!r}; there is no such file.")
    try:
        return Found(np.load(place, allow_pickle=False), None, [])
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{place} is no array, or a broken one ({error}).") from None


def _from_npz(place: Path, labels: str) -> Found:
    try:
        arrays, names = read_arrays(place)
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{place} is no .npz file, or a broken one ({error})."
        ) from None
    if FORMAT in names:
        raise UserError(f"{place} is prepared already: --config.data.path={place}.")
    told = labels or next((name for name in LABELS if name in names), "")
    if told and told not in names:
        raise UserError(f"--labels is {labels!r}; {place} has {sorted(names)}.")
    others = [name for name in names if name != told]
    known = [name for name in VALUES if name in others] or others
    if not known or (len(others) > 1 and known == others and others[0] not in VALUES):
        raise UserError(
            f"{place} has the arrays {sorted(names)}; call the examples "
            f"{VALUES[0]!r}, for images, or {VALUES[1]!r}."
        )
    done = [
        f"array {known[0]!r} of {sorted(names)}" + f", labels {told!r}" * bool(told)
    ]
    return Found(arrays[known[0]], arrays[told] if told else None, done)


def _from_csv(place: Path, labels: str) -> Found:
    """A table of numbers, with a line of names or without; `labels` is a column."""
    try:
        text = place.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        separator = max(",;\t", key=first.count)
        rows = [r for r in csv.reader(text.splitlines(), delimiter=separator) if r]
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is no text in UTF-8 ({error}).") from None
    except csv.Error as error:
        raise UserError(f"{place} is no table ({error}).") from None
    if not rows:
        raise UserError(f"{place} is empty.")
    has_names = not all(_is_number(cell) or not cell.strip() for cell in rows[0])
    width = len(rows[0])
    names = [c.strip() for c in rows.pop(0)] if has_names else [*map(str, range(width))]
    if labels and labels not in names:
        raise UserError(f"--labels is {labels!r}; {place} has the columns {names}.")
    for line, row in enumerate(rows, 1 + has_names):
        if len(row) != width:
            raise UserError(
                f"{place}, line {line}: {len(row)} cells; expected {width}."
            )
    kept = [i for i, name in enumerate(names) if name != labels]
    values = np.empty((len(rows), len(kept)))
    for line, row in enumerate(rows):
        for column, i in enumerate(kept):
            cell = row[i].strip()
            if cell and not _is_number(cell):
                if len(kept) == 1 and not labels:  # a list of texts: labels of others
                    return Found(np.asarray([r[i].strip() for r in rows]), None, [])
                raise UserError(
                    f"{place}, line {line + 1 + has_names}: {names[i]} is {cell!r}, no "
                    f"number; --labels={names[i]} takes the column as classes."
                )
            values[line, column] = float(cell) if cell else np.nan
    told = None
    if labels:
        cells = [row[names.index(labels)].strip() for row in rows]
        if "" in cells:
            line = cells.index("") + 1 + has_names
            raise UserError(
                f"{place}, line {line}: {labels} is empty; expected a class."
            )
        all_numbers = all(map(_is_number, cells))
        told = np.asarray([float(c) for c in cells] if all_numbers else cells)
    columns = [names[i] for i in kept]
    return Found(values, told, [f"columns {', '.join(columns)}"] if has_names else [])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _no_reader(place: Path, labels: str) -> Found:
    del labels
    raise UserError(f"{place} is none of {[*READERS]}.")


READERS: dict[str, Callable[[Path, str], Found]] = {
    ".npy": _from_npy,
    ".npz": _from_npz,
    **dict.fromkeys(TABLES, _from_csv),
}
"""Ending of a file's name -> what reads it: (path, name of the labels or "")."""
