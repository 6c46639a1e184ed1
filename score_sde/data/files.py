"""Data in files: a folder or a zip archive of pictures, or an npz file of arrays.

`pictures.py` says where pictures have their labels, `npz.py` how arrays are called.
"""

from __future__ import annotations

import struct
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from score_sde.data.dataset import Dataset, Examples, Format
from score_sde.data.npz import arrays
from score_sde.data.pictures import pictures
from score_sde.types import UserError

FILES = "files"
HELD_OUT = 20
"""Without a place for test data, one example in so many is held out for them."""


def files(format: Format, path: str, test_path: str) -> Dataset:
    """The data at `path`, and the test split at `test_path`.

    If that is empty, the test split is every 20th example at `path`; if it is the same
    path, both splits are all of it.
    """
    return Dataset(FILES, *format, partial(_open, format, path, test_path))


def _open(format: Format, path: str, test_path: str, split: str) -> Examples:
    def part(count: int) -> np.ndarray:
        rows = np.arange(count)
        if test_path:
            return rows
        return rows[(rows % HELD_OUT == HELD_OUT - 1) == (split == "test")]

    place = Path(test_path if test_path and split == "test" else path)
    if place.is_dir():
        names = [f.relative_to(place).as_posix() for f in place.rglob("*")]
        return pictures(place, names, lambda n: (place / n).read_bytes(), format, part)
    if not place.is_file():
        raise UserError(f"there is no {place}; the data should be there: {format}.")
    try:
        if place.suffix == ".npz":
            return arrays(place, format, part)
        archive = zipfile.ZipFile(place)
    except (zipfile.BadZipFile, struct.error) as error:
        raise UserError(
            f"{place} is no folder, .zip or .npz file, or a broken one ({error})."
        ) from None
    for name in archive.namelist():
        if _leads_out(name):
            raise UserError(f"{place} is refused: its file {name!r} is outside of it.")
    return pictures(place, archive.namelist(), archive.read, format, part)


def _leads_out(name: str) -> bool:
    """Whether the name of a file in an archive is that of a file elsewhere."""
    folders = name.replace("\\", "/").split("/")
    return folders[0] == "" or ".." in folders or ":" in folders[0]
