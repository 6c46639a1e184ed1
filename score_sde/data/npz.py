"""Arrays in an npz file, mapped into memory if it is not compressed.

`images`, uint8 [examples, height, width, channels], or without levels `latents`, floats
[examples, *shape], and if there are classes `labels`, integers [examples].
"""

from __future__ import annotations

import dataclasses
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from score_sde.data.dataset import Format, Rows
from score_sde.data.decoded import as_stored, check_label, check_layout, check_range
from score_sde.types import UserError


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


def arrays(place: Path, format: Format, part: Callable[[int], np.ndarray]) -> Stored:
    """Open the arrays of a file as examples.

    Args:
        place: the npz file.
        format: of one example.
        part: number of rows -> the rows that are wanted.

    Raises:
        UserError: if an array is missing, broken or of another format, or a label is
            none.
        zipfile.BadZipFile: for a file that is no archive.
    """
    name = "images" if format.num_levels else "latents"
    stored = _read(place)
    for needed in [name, "labels"] if format.num_classes else [name]:
        if needed not in stored:
            raise UserError(
                f"{place} has no array {needed!r}, but {sorted(stored)}; expected "
                f"{format}."
            )
    values, labels, where = stored[name], None, f"{place}: {name}"
    one = np.broadcast_to(np.zeros((), values.dtype), values.shape[1:])
    check_layout(one, format, f"{where}[0]")
    if format.num_classes:
        labels = stored["labels"]
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


def _read(place: Path) -> dict[str, np.ndarray]:
    """Its arrays, mapped into memory where they are stored as they are."""
    found = {}
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            try:
                if member.compress_type == zipfile.ZIP_STORED:
                    found[name] = _mapped(place, member.header_offset)
                else:
                    with archive.open(member) as stream:
                        found[name] = np.lib.format.read_array(
                            stream, allow_pickle=False
                        )
            except (ValueError, OverflowError, EOFError, zlib.error) as error:
                raise UserError(
                    f"{place}: {name} is no array, or a broken one ({error})."
                ) from None
    return found


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
