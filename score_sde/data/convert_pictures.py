"""Converting pictures of any size and colour into images of one.

What is done to a picture, in this order:

    EXIF              turned upright
    several frames    the first one
    16 bits           divided by 257, and rounded
    transparency      laid on white
    colour            grey if all pictures are grey, RGB otherwise
    size              the central square is cut out and resized by Lanczos' filter
"""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from score_sde.data.classes import Classes, classes_of
from score_sde.data.listing import TABLE, Listing, listing
from score_sde.data.local import local_path
from score_sde.data.picture_file import num_frames, opened, orientation, upright
from score_sde.data.tfds import fit
from score_sde.types import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
BROKEN = (OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
MOST_NAMED = 20
"""Broken files that are named."""
FOLDERS = "folders"
"""The word that takes the folders of pictures as their classes."""


class Images(NamedTuple):
    """Pictures that were converted."""

    values: np.ndarray
    """uint8 [pictures, height, width, channels]."""
    classes: Classes | None
    done: list[str]
    """What was done to how many, a line each."""


def convert_pictures(
    place: Path, *, size: int, labels: str, like: Mapping[str, Any]
) -> Images:
    """Read all pictures of a folder or an archive, and make them alike.

    Args:
        place: of the pictures.
        size: side of the result; 0 to keep the size that all of them have.
        labels: 'folders'; a file of labels, .json as in EDM's archives or .csv of names
            and labels; or "" for dataset.json or folders if they are there.
        like: the facts of data that these must be like, whose colours and classes they
            get; {} for none.

    Raises:
        UserError: if they can't be made alike without more being said.
    """
    found = listing(place)
    named = _labels(found, labels)
    done: Counter[str] = Counter()
    kinds, broken = _kinds(found)
    names = [name for name in kinds if named is None or name in named]
    if not names:
        raise UserError(f"{place}: no picture of {len(found.names)} can be read.")
    sides = {kinds[name][0] for name in names}
    if not size and len(sides) > 1:
        small, large = (f"{w} x {h}" for w, h in (min(sides), max(sides)))
        raise UserError(
            f"{place} has pictures of {len(sides)} sizes, from {small} to {large} "
            "pixels: give --size=N, and the central square of each is resized to N x N."
        )
    is_grey = all(kinds[name][1] in GREY for name in names)
    if like:
        is_grey = like["shape"][-1] == 1
    width, height = (size, size) if size else sides.pop()
    values = np.empty((len(names), height, width, 1 if is_grey else 3), np.uint8)
    kept: list[str] = []
    for name in names:
        try:
            with opened(found.read(name)) as picture:
                where = f"{place}: {found.root}{name}"
                values[len(kept)] = _converted(picture, values.shape[1:], done, where)
            kept.append(name)
        except BROKEN as error:
            broken[name] = str(error)
    if not kept:
        raise UserError(f"{place}: no picture of {len(found.names)} can be read.")
    lines = [f"{len(kept):,} pictures of {len(found.names):,} were read"]
    if found.left_out:
        lines.append((found.note() or "").removeprefix(f"{place}: "))
    if named is not None and len(names) < len(kinds):
        lines.append(f"left out, without a label: {len(kinds) - len(names):,}")
    lines += [f"left out, broken: {_some(broken)}"] if broken else []
    lines += [f"{what}: {count:,}" for what, count in sorted(done.items())]
    classes = None
    if named is not None:
        given, numbered = [named[name] for name in kept], like.get("classes", ())
        classes = classes_of(given, f"{place}: labels", numbered)
        lines.append(classes.done)
    return Images(values[: len(kept)], classes, lines)


def _kinds(found: Listing) -> tuple[dict[str, Any], dict[str, str]]:
    """Find out size and mode of the pictures.

    Returns:
        Name -> ((width, height), mode), and of broken ones name -> what is wrong.
    """
    kinds, broken = {}, {}
    for name in found.names:
        try:
            with opened(found.read(name)) as picture:
                turned = orientation(picture) >= 5
                width, height = picture.size
                # A TIFF has its size turned already.
                if turned and picture.format != "TIFF":
                    width, height = height, width
                kinds[name] = ((width, height), picture.mode)
        except BROKEN as error:
            broken[name] = str(error)
    return kinds, broken


def _converted(
    picture: Picture, shape: tuple[int, ...], done: Counter[str], where: str
) -> np.ndarray:
    """One picture, as the head of this file says; what is done is counted."""
    from PIL import Image

    if num_frames(picture) > 1:
        done["first of several frames"] += 1
    if orientation(picture) != 1:
        done["turned upright by EXIF"] += 1
    mode, picture = picture.mode, upright(picture)
    if mode == "F" or (mode[:1] == "I" and not _is_16_bit(picture)):
        raise UserError(
            f"{where} is of numbers beyond 16 bits ({mode}); give an .npy of arrays."
        )
    if mode[:1] == "I":
        wide = np.asarray(picture).astype(np.int64)
        picture, mode = Image.fromarray(((wide + 128) // 257).astype(np.uint8)), "L"
        done["16 bits to 8"] += 1
    if mode in TRANSPARENT or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] != 255:
            done["transparency laid on white"] += 1
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    wanted = "L" if shape[-1] == 1 else "RGB"
    if picture.mode != wanted:
        if mode not in TRANSPARENT and mode != "1":
            done[f"{mode} to {wanted}"] += 1
        picture = picture.convert(wanted)
    if picture.size != (shape[1], shape[0]):
        small = min(picture.size) < min(shape[:2])
        done["enlarged" if small else "cut and resized"] += 1
        return fit(np.asarray(picture), shape).reshape(shape)
    return np.asarray(picture).reshape(shape)


def _is_16_bit(picture: Picture) -> bool:
    low, high = np.min(np.asarray(picture)), np.max(np.asarray(picture))
    return bool(low >= 0 and high < 2**16)


def _labels(found: Listing, labels: str) -> dict[str, Any] | None:
    """Name -> label of the pictures, None without labels."""
    folders = {n: n.partition("/")[0] for n in found.names if "/" in n}
    if labels.lower() == FOLDERS:
        if len(folders) < len(found.names):
            name = next(n for n in found.names if n not in folders)
            raise UserError(f"{found.place}: {name} is in no folder of a class.")
        return folders
    if labels:
        file = local_path(labels, "--labels")
        if not file.is_file():
            raise UserError(
                f"--labels is {labels!r}; give 'folders', or a .json or .csv file of "
                "names and labels."
            )
        return _table(file.name, file.read_bytes())
    if found.has_table:
        return _table(TABLE, found.read(TABLE)) or None
    is_sorted = len(folders) == len(found.names) and len(set(folders.values())) > 1
    return folders if is_sorted else None


def _table(name: str, content: bytes) -> dict[str, Any]:
    """Name -> label of a file that lists them."""
    try:
        text = content.decode("utf-8-sig")
        if name.endswith(".json"):
            return dict(json.loads(text)["labels"] or ())
        rows = list(csv.reader(text.splitlines()))
        return {row[0].strip(): row[1].strip() for row in rows if row}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f'{name} must be {{"labels": [[name, label], ...]}}, or lines of a .csv of '
            f"names and labels ({error!r})."
        ) from None


def _some(broken: dict[str, str]) -> str:
    """How many files are broken, and which; of very many the first."""
    named = [f"{name}: {error}" for name, error in broken.items()][:MOST_NAMED]
    more = ["..."] if len(broken) > MOST_NAMED else []
    return f"{len(broken):,} ({'; '.join([*named, *more])})"
