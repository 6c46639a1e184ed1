"""Examples that are read and decoded when they are asked for, and their checks."""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from score_sde.data.dataset import Format, Rows
from score_sde.types import UserError


class Record(NamedTuple):
    """One example as its file has it."""

    where: str
    """What errors call it."""
    values: np.ndarray
    label: int | None


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Examples that are read one by one; each is checked."""

    format: Format
    count: int
    read: Callable[[list[int]], Iterable[Record]]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        records = list(self.read(np.asarray(index).tolist()))
        for record in records:
            check_layout(record.values, self.format, record.where)
        values = np.stack([record.values for record in records])
        check_range(values, self.format, lambda i: records[i].where)
        rows = {"values": as_stored(values)}
        if self.format.num_classes:
            for record in records:
                check_label(record.label, self.format, record.where)
            rows["label"] = np.asarray([r.label for r in records], np.int32)
        return rows


def as_stored(values: np.ndarray) -> np.ndarray:
    """Floats in single precision; integers as they are."""
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def check_layout(example: np.ndarray, format: Format, where: str) -> None:
    """Raises: UserError if shape or type of an example are not those of the format."""
    kind = np.floating if format.num_levels is None else np.uint8
    if example.shape != format.shape or not np.issubdtype(example.dtype, kind):
        raise UserError(
            f"{where} is {example.dtype} of shape {example.shape}; expected {format}."
        )


def check_range(
    values: np.ndarray, format: Format, where: Callable[[int], str]
) -> None:
    """Raises: UserError if a value is not finite, or no level; [examples, *shape]."""
    if format.num_levels is None:
        good = np.isfinite(values)
    elif format.num_levels == 256:
        return
    else:
        good = values < format.num_levels
    if not good.all():
        first = np.argwhere(~good)[0]
        raise UserError(
            f"{where(int(first[0]))} has {values[tuple(first)]} at "
            f"{tuple(first[1:].tolist())}; expected {format}."
        )


def check_label(label: int | None, format: Format, where: str) -> None:
    """Raises: UserError if a label is missing or none of the classes."""
    if label is None or not 0 <= label < format.num_classes:
        raise UserError(f"{where} has the label {label}; expected {format}.")


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""PIL's name of images with so many channels of 8 bits."""


def decode(file: bytes, format: Format, where: str) -> np.ndarray:
    """The pixels of a picture file.

    Raises: UserError for a file that is broken, or of another size or colour; size and
        colour are compared before anything is decoded.
    """
    from PIL import Image

    height, width, channels = format.shape
    try:
        with Image.open(io.BytesIO(file)) as picture:
            found = (picture.width, picture.height, picture.mode)
            if found == (width, height, MODES.get(channels)):
                return np.asarray(picture).reshape(format.shape)
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise UserError(
            f"{where} is no picture, or a broken one ({error}); expected {format}."
        ) from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{where}: {error}") from None
    raise UserError(
        f"{where} is {found[0]} x {found[1]} pixels, {found[2]}; expected {format}."
    )
