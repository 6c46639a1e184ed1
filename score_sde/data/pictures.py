"""Pictures in a folder or a zip archive, PNG or JPEG of the declared size.

Their labels are in dataset.json, {"labels": [[name, label], ...]} as in EDM's archives,
or else their top folders are the classes, in alphabetical order.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from score_sde.data.dataset import Format
from score_sde.data.decoded import Decoded, Record, decode
from score_sde.types import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
LABELS = "dataset.json"


def pictures(
    place: Path,
    names: list[str],
    read: Callable[[str], bytes],
    format: Format,
    part: Callable[[int], np.ndarray],
) -> Decoded:
    """Open the pictures among some files as examples.

    Args:
        place: the folder or the archive, for messages.
        names: of all files in it.
        read: name -> the content of the file.
        format: of one example.
        part: number of pictures -> the rows that are wanted.

    Raises:
        UserError: if there are none, or not the labels that the format has.
    """
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
