"""Pictures in a folder or a zip archive as examples, of the size of the format.

Their labels are in dataset.json, {"labels": [[name, label], ...]} as in EDM's archives,
or else their top folders are the classes, in alphabetical order.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.dataset import Format, Rows
from score_sde.data.decoded import Record, check_label, offering_conversion, rows_of
from score_sde.data.listing import TABLE, Listing
from score_sde.data.picture_file import MODES, decode
from score_sde.types import UserError


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Examples that are picture files, decoded when they are asked for."""

    format: Format
    listing: Listing
    names: list[str]
    labels: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        names = [self.names[i] for i in np.asarray(index).tolist()]
        with offering_conversion(self.listing.place):
            return rows_of([self._record(name) for name in names], self.format)

    def contents(self, index: np.ndarray) -> Iterator[bytes]:
        """Give label and file of each example, which need not be decoded for it.

        Raises:
            UserError: if one can't be read.
        """
        for i in np.asarray(index).tolist():
            name = self.names[i]
            label = self.labels.get(name, -1)
            if self.format.num_classes:
                check_label(label, self.format, self._where(name))
            yield int(label).to_bytes(8, "little", signed=True) + self._file(name)

    def _record(self, name: str) -> Record:
        where = self._where(name)
        pixels = decode(self._file(name), self.format, where)
        return Record(where, pixels, self.labels.get(name))

    def _where(self, name: str) -> str:
        return f"{self.listing.place}: {self.listing.root}{name}"

    def _file(self, name: str) -> bytes:
        try:
            return self.listing.read(name)
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self._where(name)} can't be read: {error}.") from None


def pictures(
    found: Listing, format: Format, part: Callable[[int], np.ndarray]
) -> Pictures:
    """Open pictures as examples.

    Args:
        found: the pictures at a place.
        format: of one example.
        part: number of pictures -> the rows that are wanted.

    Raises:
        UserError: if there are not the labels that the format has, or pictures can't
            be of the format.
    """
    shape = format.shape
    if len(shape) != 3 or shape[-1] not in MODES or format.num_levels is None:
        raise UserError(
            f"{found.place} has pictures, of levels and of shape (height, width, 1, 3 "
            f"or 4); expected {format}."
        )
    labels: Mapping[str, Any] = {}
    if format.num_classes:
        if found.has_table:
            labels = labels_in_table(found.place, found.read(TABLE))
        else:
            labels = labels_by_folder(found.names)
            count = len(set(labels.values()))
            if count != format.num_classes:
                raise UserError(
                    f"{found.place} has {count} folders and no {TABLE}; expected a "
                    f"folder for each of {format.num_classes} classes."
                )
    names = [found.names[row] for row in part(len(found.names))]
    return Pictures(format, found, names, labels)


def labels_in_table(place: Path, table: bytes) -> dict[str, int]:
    """Read name -> label from the file that EDM's archives have.

    Args:
        place: where the file is, for errors.
        table: content of the file.

    Raises:
        UserError: if it is of another form, or a label is no integer.
    """
    try:
        labels = dict(json.loads(table)["labels"] or ())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{place}: {TABLE} must be {{"labels": [[name, label], ...]}} ({error!r}).'
        ) from None
    for name, label in labels.items():
        if not isinstance(label, int):
            raise UserError(f"{place}: {TABLE} gives {name} {label!r}, no integer.")
    return labels


def folders_of(names: list[str]) -> list[str]:
    """The top folders of some files, in alphabetical order: the classes."""
    return sorted({name.partition("/")[0] for name in names if "/" in name})


def labels_by_folder(names: list[str]) -> dict[str, int]:
    """Make name -> label of pictures that are in a folder for each class."""
    number = {folder: label for label, folder in enumerate(folders_of(names))}
    return {n: number[n.partition("/")[0]] for n in names if "/" in n}
