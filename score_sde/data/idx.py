"""Images in idx files, as MNIST, Fashion-MNIST, KMNIST and EMNIST come.

An idx file is two zero bytes, the type of a value (8 for uint8), the number of axes,
the size of each as four bytes, big-endian, and the values. A folder has four of them,
as they are or as .gz:

    train-images-idx3-ubyte   train-labels-idx1-ubyte
    t10k-images-idx3-ubyte    t10k-labels-idx1-ubyte

`test` may stand for `t10k`, and a full stop before `idx`, as some copies have them.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
import re
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.dataset import Dataset, Format, InMemory
from score_sde.data.identity import identity_of_files
from score_sde.data.local import local_path
from score_sde.types import UserError

IDX = "idx"
SPLITS = {"train": ("train",), "test": ("t10k", "test")}
"""Split -> how the names of its files begin, after the prefix."""
UNSIGNED_BYTE = 8
GZIP = b"\x1f\x8b"
AXES = {"images": 3, "labels": 1}


def idx_files(
    folder: str,
    prefix: str,
    shape: tuple[int, ...],
    num_classes: int | None,
    first_label: int,
    transposed: bool,
) -> Dataset:
    """Make the data set of the idx files in a folder.

    Args:
        folder: where the files are.
        prefix: how their names begin, such as 'emnist-letters-'.
        shape: of one example, (height, width, 1); () for what the files say.
        num_classes: number of classes; None for what the training labels say, 0 not to
            read labels.
        first_label: the label of the first class; 1 for EMNIST's letters.
        transposed: whether columns are stored as rows, as in EMNIST.

    Raises:
        UserError: if the files are not there and the format is not stated, or they are
            of another format.
    """
    place = local_path(folder, "data.folder")
    if not (shape and num_classes is not None):
        train = partial(_path, place, prefix, "train")
        height, width = read_idx(train("images")).shape[1:]
        found = (width, height, 1) if transposed else (height, width, 1)
        if shape not in ((), found):
            raise UserError(f"shape is {shape}; images of {place} are {found}.")
        shape = found
        if num_classes is None:
            labels = read_idx(train("labels"))
            num_classes = int(labels.max()) + 1 - first_label
    format = Format(shape, 256, num_classes)
    dataset = Dataset(
        IDX,
        *format,
        partial(_open, format, place, prefix, first_label, transposed),
        identify=partial(_identify, place, prefix),
    )
    facts = {"shape": format.shape, "num_classes": format.num_classes}
    return dataclasses.replace(dataset, found=facts)


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, compressed by gzip or not.

    Raises:
        UserError: if it is none, is broken or has values of another type.
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
        zeros, kind, num_axes = struct.unpack_from(">HBB", content)
        sizes = struct.unpack_from(f">{num_axes}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"{path} is no idx file, or a broken one ({error}).") from None
    begin, count = 4 + 4 * num_axes, math.prod(sizes)
    if zeros or kind != UNSIGNED_BYTE:
        raise UserError(
            f"{path} begins with {content[:4].hex()}; an idx file of unsigned bytes "
            "begins with 000008."
        )
    if len(content) != begin + count:
        raise UserError(
            f"{path} has {len(content) - begin} values; its header says {sizes}, "
            f"{count}."
        )
    return np.frombuffer(content, np.uint8, count, begin).reshape(sizes)


def _path(place: Path, prefix: str, split: str, kind: str) -> Path:
    """The file of a split's images or labels; one that is not compressed goes first.

    Raises:
        UserError: if there is none.
    """
    begins = "|".join(SPLITS[split])
    name = re.compile(
        rf"{re.escape(prefix)}({begins})-{kind}[-.]idx\d-ubyte(\.gz)?", re.ASCII
    )
    found = sorted(p for p in place.glob("*") if name.fullmatch(p.name))
    if not found:
        axes = AXES[kind]
        raise UserError(
            f"there is no {prefix}{SPLITS[split][0]}-{kind}-idx{axes}-ubyte, nor with "
            f".gz, in {place}: data.folder and data.prefix say where idx files are."
        )
    return min(found, key=lambda p: (p.suffix == ".gz", p.name))


def _open(
    format: Format,
    place: Path,
    prefix: str,
    first_label: int,
    transposed: bool,
    split: str,
) -> InMemory:
    path = _path(place, prefix, split, "images")
    images = read_idx(path)
    if transposed and images.ndim == 3:
        images = images.swapaxes(1, 2)
    if images.shape[1:] != format.shape[:2]:
        raise UserError(
            f"{path} has images of shape {images.shape[1:]}; expected {format}."
        )
    labels = None
    if format.num_classes:
        path = _path(place, prefix, split, "labels")
        stored = read_idx(path)
        if stored.shape != images.shape[:1]:
            raise UserError(
                f"{path} has {stored.shape} labels of {len(images)} images."
            )
        labels = stored.astype(np.int32) - first_label
        outside = np.flatnonzero((labels < 0) | (labels >= format.num_classes))
        for row in outside[:1]:
            last = first_label + format.num_classes - 1
            raise UserError(
                f"{path} has the label {stored[row]} at {row}; expected {first_label} "
                f"to {last}, see data.first_label and data.num_classes."
            )
    return InMemory(images[..., None], labels)


def _identify(place: Path, prefix: str, dataset: Dataset) -> dict[str, Any]:
    """The identity of the files as they are now."""
    kinds = ("images", "labels") if dataset.num_classes else ("images",)
    paths = [_path(place, prefix, split, kind) for split in SPLITS for kind in kinds]
    return identity_of_files(dataclasses.replace(dataset), [p.resolve() for p in paths])
