"""Arrays in an npz file, mapped into memory if it is not compressed.

`images`, uint8 [examples, height, width, channels], or without levels `latents`, floats
[examples, *shape], and if there are classes `labels`, integers [examples]. A file that
prepare-data wrote has its format as well, in `format`, a text of JSON: shape,
num_levels, num_classes, sigma_data, and shift and scale of the user's units.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.dataset import Format, Rows
from score_sde.data.decoded import (
    as_stored,
    check_label,
    check_layout,
    check_range,
    offering_conversion,
)
from score_sde.types import UserError

LEVELS = 256
"""Grey levels of `images`, unless they are stated."""
ARRAYS, FORMAT = ("images", "latents"), "format"


FACTS: dict[str, Callable[[Any], bool]] = {
    "shape": lambda v: all(type(n) is int and n > 0 for n in v),
    "num_levels": lambda v: type(v) is int and 0 <= v <= LEVELS,
    "num_classes": lambda v: type(v) is int and v >= 0,
    "sigma_data": lambda v: isinstance(v, float) and v > 0,
    "shift": lambda v: all(isinstance(n, float) for n in v),
    "scale": lambda v: all(isinstance(n, float) for n in v),
    "classes": lambda v: all(isinstance(name, str) for name in v),
}
"""What prepare-data records -> whether a value can be one."""


class Described(NamedTuple):
    """Options of the source `files`, as an npz file states them of itself."""

    stated: dict[str, Any]
    """What prepare-data recorded, with which a config must agree."""
    measured: dict[str, Any]
    """What the headers of the arrays tell."""


NOTHING = Described({}, {})


@dataclasses.dataclass(frozen=True)
class Stored:
    """Rows of arrays in a file; values are checked as they are read."""

    format: Format
    place: Path
    name: str
    array: np.ndarray
    """Those of the whole file, of which `rows` are the split."""
    classes: np.ndarray | None
    rows: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """All values of the split, [examples, *shape], as `InMemory` has them."""
        return self[np.arange(len(self))]["values"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        rows = self.rows[index]
        values = np.asarray(np.take(self.array, rows, axis=0))
        with offering_conversion(self.place):
            check_range(values, self.format, lambda i: f"{self._where}[{rows[i]}]")
        found = {"values": as_stored(values)}
        if self.classes is not None:
            found["label"] = self.classes[rows]
        return found

    @property
    def _where(self) -> str:
        return f"{self.place}: {self.name}"


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
    needed = [name, "labels"] if format.num_classes else [name]
    stored, names = read_arrays(place, needed)
    for name_needed in needed:
        if name_needed not in stored:
            raise UserError(
                f"{place} has no array {name_needed!r}, but {sorted(names)}; expected "
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
    return Stored(format, place, name, values, labels, part(len(values)))


def described(place: Path) -> Described:
    """Read what an npz file says of its format; nothing, if it is not there.

    Raises:
        UserError: if it is broken, or says something else than a format.
    """
    if not place.is_file():
        return NOTHING
    try:
        stored, names = read_arrays(place, [FORMAT])
        name = next((name for name in ARRAYS if name in names), None)
        shape = _shape(place, name) if name else ()
    except (zipfile.BadZipFile, struct.error) as error:
        raise UserError(
            f"{place} is no .npz file, or a broken one ({error})."
        ) from None
    if FORMAT in stored:
        return Described(_stated(place, str(stored[FORMAT])), {})
    axes = (
        "[examples, height, width, channels]" if name == "images" else "[examples, n]"
    )
    with offering_conversion(place):
        if name is None:
            raise UserError(
                f"{place} has no array of {list(ARRAYS)}, but {sorted(names)}."
            )
        if len(shape) < 2 or (name == "images" and len(shape) != 4):
            raise UserError(f"{place}: {name} are of shape {shape}; expected {axes}.")
    levels = LEVELS if name == "images" else 0
    return Described({}, {"shape": shape[1:], "num_levels": levels})


def _stated(place: Path, text: str) -> dict[str, Any]:
    """The facts that prepare-data recorded.

    Raises:
        UserError: if they are others.
    """
    try:
        facts = {name: json.loads(text)[name] for name in FACTS}
        for name, is_one in FACTS.items():
            if not is_one(facts[name]):
                raise ValueError(f"{name} is {facts[name]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: {FORMAT} is not a format ({error}).") from None
    return {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}


def _shape(place: Path, name: str) -> tuple[int, ...]:
    """The shape of an array in a file, of which only the header is read."""
    with zipfile.ZipFile(place) as archive, archive.open(f"{name}.npy") as stream:
        try:
            return _header(stream)[0]
        except (ValueError, EOFError, zlib.error) as error:
            raise UserError(
                f"{place}: {name} is no array, or a broken one ({error})."
            ) from None


def read_arrays(
    place: Path, wanted: list[str] | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read arrays of a file, mapped into memory where they are stored as they are.

    Args:
        place: the npz file.
        wanted: names of the arrays; None for all of them.

    Returns:
        The wanted arrays that are there, and the names of all.

    Raises:
        UserError: if one of them is broken, or has Python objects.
        zipfile.BadZipFile: for a file that is no archive.
    """
    found, names = {}, []
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            names.append(name)
            if wanted is not None and name not in wanted:
                continue
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
    return found, names


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether columns come first, type) of an array's header."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _mapped(place: Path, offset: int) -> np.ndarray:
    """Map the array of an archive's member that begins at an offset into memory."""
    with place.open("rb") as file:
        file.seek(offset + 26)  # of the member's header, where two lengths are
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        shape, in_columns, dtype = _header(file)
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
