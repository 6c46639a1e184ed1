"""Data in files: a folder or a zip archive of pictures, or an npz file of arrays.

Pictures are PNG or JPEG of the declared size. Their labels are in dataset.json, as in
EDM's archives, {"labels": [[name, label], ...]}, or else their top folders are the
classes, in alphabetical order. An npz file has `images`, uint8 [examples, height,
width, channels], or without levels `latents`, floats, and `labels`, integers
[examples], if there are classes. It is mapped into memory if it is not compressed.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from score_sde.data.dataset import Dataset, Examples, Format, Rows
from score_sde.data.decoded import (
    Decoded,
    Record,
    as_stored,
    check_label,
    check_layout,
    check_range,
    decode,
)
from score_sde.types import UserError

FILES = "files"
SUFFIXES = (".png", ".jpg", ".jpeg")
LABELS = "dataset.json"
HELD_OUT = 20
"""Without a file of test data, every so manieth example is held out for the test."""


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
        return _pictures(place, names, lambda n: (place / n).read_bytes(), format, part)
    if not place.is_file():
        raise UserError(f"there is no {place}; the data should be there: {format}.")
    try:
        if place.suffix == ".npz":
            return _arrays(place, format, part)
        archive = zipfile.ZipFile(place)
    except (zipfile.BadZipFile, struct.error) as error:
        raise UserError(
            f"{place} is no folder, .zip or .npz file, or a broken one ({error})."
        ) from None
    for name in archive.namelist():
        if PurePosixPath(name).is_absolute() or ".." in name.replace("\\", "/").split(
            "/"
        ):
            raise UserError(f"{place} is refused: its file {name!r} is outside of it.")
    return _pictures(place, archive.namelist(), archive.read, format, part)


Part = Callable[[int], np.ndarray]
"""The rows of a split, of as many as there are."""


def _pictures(
    place: Path,
    names: list[str],
    read: Callable[[str], bytes],
    format: Format,
    part: Part,
) -> Decoded:
    found = sorted(n for n in names if PurePosixPath(n).suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"{place} has no pictures ({', '.join(SUFFIXES)}).")
    labels: dict[str, Any] = {}
    if format.num_classes:
        in_file = LABELS in names
        table = read(LABELS) if in_file else b""
        labels = _listed(place, table) if in_file else _by_folder(place, found, format)
    chosen = [found[row] for row in part(len(found))]

    def records(index: list[int]) -> Iterator[Record]:
        for i in index:
            name = chosen[i]
            where = f"{place}: {name}"
            try:
                content = read(name)
            except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                raise UserError(f"{where} can't be read: {error}.") from None
            yield Record(where, decode(content, format, where), labels.get(name))

    return Decoded(format, len(chosen), records)


def _listed(place: Path, table: bytes) -> dict[str, Any]:
    """Name -> label, of the file that EDM's archives have."""
    try:
        labels = dict(json.loads(table)["labels"] or ())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{place}: {LABELS} must be {{"labels": [[name, label], ...]}} ({error!r}).'
        ) from None
    for name, label in labels.items():
        if not isinstance(label, int):
            raise UserError(f"{place}: {LABELS} gives {name} {label!r}, no integer.")
    return labels


def _by_folder(place: Path, names: list[str], format: Format) -> dict[str, int]:
    """Name -> label, of pictures in a folder per class."""
    folders = sorted({name.partition("/")[0] for name in names if "/" in name})
    if len(folders) != format.num_classes:
        raise UserError(
            f"{place} has {len(folders)} folders and no {LABELS}; expected a folder "
            f"for each of {format.num_classes} classes."
        )
    number = {folder: label for label, folder in enumerate(folders)}
    return {n: number[n.partition("/")[0]] for n in names if "/" in n}


@dataclasses.dataclass(frozen=True)
class Stored:
    """Rows of arrays in a file; values are checked as they are read."""

    format: Format
    where: str
    values: np.ndarray
    labels: np.ndarray | None
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        rows = self.rows[index]
        values = np.asarray(np.take(self.values, rows, axis=0))
        check_range(values, self.format, lambda i: f"{self.where}[{rows[i]}]")
        found = {"values": as_stored(values)}
        if self.labels is not None:
            found["label"] = self.labels[rows]
        return found


def _arrays(place: Path, format: Format, part: Part) -> Stored:
    name = "images" if format.num_levels else "latents"
    arrays = _read_npz(place)
    for needed in [name, "labels"] if format.num_classes else [name]:
        if needed not in arrays:
            raise UserError(
                f"{place} has no array {needed!r}, but {sorted(arrays)}; expected "
                f"{format}."
            )
    values, labels, where = arrays[name], None, f"{place}: {name}"
    one = np.broadcast_to(np.zeros((), values.dtype), values.shape[1:])
    check_layout(one, format, f"{where}[0]")
    if format.num_classes:
        labels = arrays["labels"]
        if labels.shape != values.shape[:1] or labels.dtype.kind not in "iu":
            raise UserError(
                f"{place}: labels are {labels.dtype} of shape {labels.shape}; expected "
                f"{len(values)} integers below {format.num_classes}."
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= format.num_classes))
        for row in wrong[:1]:
            check_label(int(labels[row]), format, f"{where}[{row}]")
        labels = labels.astype(np.int32)
    return Stored(format, where, values, labels, part(len(values)))


def _read_npz(place: Path) -> dict[str, np.ndarray]:
    """Its arrays, mapped into memory where they are stored as they are."""
    arrays = {}
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            try:
                if member.compress_type == zipfile.ZIP_STORED:
                    arrays[name] = _mapped(place, member.header_offset)
                else:
                    with archive.open(member) as stream:
                        arrays[name] = np.lib.format.read_array(
                            stream, allow_pickle=False
                        )
            except (ValueError, EOFError, zlib.error) as error:
                raise UserError(
                    f"{place}: {name} is no array, or a broken one ({error})."
                ) from None
    return arrays


def _mapped(place: Path, offset: int) -> np.ndarray:
    """The array of an archive's member that begins at an offset."""
    with place.open("rb") as file:
        file.seek(offset + 26)  # of the member's header, where two lengths are
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, in_columns, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("it has Python objects")
        return np.memmap(
            place,
            dtype,
            "r",
            offset=file.tell(),
            shape=shape,
            order="F" if in_columns else "C",
        )
