"""Examples that are read and decoded when they are asked for, and their checks."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
    """Examples that are read, decoded and checked one by one."""

    format: Format
    count: int
    read: Callable[[list[int]], Iterable[Record]]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        return rows_of(list(self.read(np.asarray(index).tolist())), self.format)


def rows_of(records: list[Record], format: Format) -> Rows:
    """Join examples that were read one by one.

    Raises:
        UserError: if one of them is not of the format.
    """
    for record in records:
        check_layout(record.values, format, record.where)
    values = np.asarray([record.values for record in records])
    if not records:
        values = np.empty((0, *format.shape), np.uint8 if format.num_levels else None)
    check_range(values, format, lambda i: records[i].where)
    rows = {"values": as_stored(values)}
    if format.num_classes:
        for record in records:
            check_label(record.label, format, record.where)
        rows["label"] = np.asarray([r.label for r in records], np.int32)
    return rows


def as_stored(values: np.ndarray) -> np.ndarray:
    """Turn floats into single precision, and leave integers as they are."""
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def check_layout(example: np.ndarray, format: Format, where: str) -> None:
    """Check shape and type of an example.

    Raises:
        UserError: if they are not those of the format.
    """
    kind = np.floating if format.num_levels is None else np.uint8
    if example.shape != format.shape or not np.issubdtype(example.dtype, kind):
        raise UserError(
            f"{where} is {example.dtype} of shape {example.shape}; expected {format}."
        )


def check_range(
    values: np.ndarray, format: Format, where: Callable[[int], str]
) -> None:
    """Check the values of some examples, [examples, *shape].

    Raises:
        UserError: if one is not finite, or no level.
    """
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
    """Check the label of an example.

    Raises:
        UserError: if it is missing, or none of the classes.
    """
    if label is None or not 0 <= label < format.num_classes:
        raise UserError(f"{where} has the label {label}; expected {format}.")


@contextmanager
def offering_conversion(place: Path) -> Iterator[None]:
    """Let every refusal of the data at a place name the command that converts them."""
    try:
        yield
    except UserError as error:
        command = (
            f"score-sde prepare-data --from={shlex.quote(str(place))} --to=OUT.npz"
        )
        raise UserError(f"{error} To convert what can be: {command}") from None
