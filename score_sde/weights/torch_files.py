"""The two formats of `torch.save`, and plain pickles of modules, without torch."""

from __future__ import annotations

import io
import zipfile
from typing import IO, Any

import numpy as np

from score_sde.types import UserError
from score_sde.weights.records import DTYPES, Global, Storage
from score_sde.weights.unpickle import parse

MAGIC = 0x1950A86A20F9469CFC6C
"""First number of a file in the format before torch 1.6."""


def read_zip(archive: zipfile.ZipFile) -> Any:
    """Read the format since torch 1.6: a pickle beside one file for each storage.

    Raises: ValueError for a damaged archive, UserError for what is refused.
    """
    names = {name: archive.getinfo(name) for name in archive.namelist()}
    (pickled,) = (n for n in names if n == "data.pkl" or n.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise UserError("a TorchScript program, not weights; save its state_dict.")
    if (
        f"{folder}byteorder" in names
        and archive.read(f"{folder}byteorder") != b"little"
    ):
        raise UserError("written on a big-endian machine, which is not supported.")
    storages: dict[str, Storage] = {}

    def load(persistent: tuple[Any, ...]) -> Storage:
        storage, key = _storage(persistent)
        if key not in storages:
            info = names[f"{folder}data/{key}"]
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"storage {key} is compressed")
            if info.file_size != storage.size * storage.dtype.itemsize:
                raise ValueError(f"storage {key} has another size than it says")
            storage.array = np.frombuffer(archive.read(info), storage.dtype)
            storages[key] = storage
        return storages[key]

    with archive.open(pickled) as stream:
        return parse(io.BytesIO(stream.read()), load_storage=load)


def read_stream(stream: IO[bytes]) -> Any:
    """Read the format before torch 1.6, or a plain pickle.

    Raises: ValueError for a damaged stream, UserError for what is refused.
    """
    first = parse(stream, load_bytes=_read_bytes)
    if first != MAGIC:
        return first
    parse(stream)  # the version of the format
    system = parse(stream)
    if not system.get("little_endian", True):
        raise UserError("written on a big-endian machine, which is not supported.")
    storages: dict[str, Storage] = {}

    def load(persistent: tuple[Any, ...]) -> Storage:
        storage, key = _storage(persistent)
        if len(persistent) > 5 and persistent[5] is not None:
            raise ValueError("a view of a storage, as torch 0.3 had them")
        return storages.setdefault(key, storage)

    value = parse(stream, load_storage=load)
    for key in parse(stream):
        storage = storages[key]
        size = int.from_bytes(stream.read(8), "little")
        data = stream.read(storage.size * storage.dtype.itemsize)
        if size != storage.size or len(data) < size * storage.dtype.itemsize:
            raise ValueError(f"storage {key} is cut off")
        storage.array = np.frombuffer(data, storage.dtype)
    return value


def _read_bytes(data: bytes) -> Any:
    if not isinstance(data, bytes):
        raise TypeError("a file in a file that is no bytes")
    return read_stream(io.BytesIO(data))


def _storage(persistent: tuple[Any, ...]) -> tuple[Storage, str]:
    word, kind, key, _, size = persistent[:5]
    known = isinstance(kind, Global) and kind.name in DTYPES
    if word != "storage" or not known or not isinstance(size, int) or size < 0:
        raise ValueError(f"an unknown storage {persistent[:2]}")
    return Storage(DTYPES[kind.name], size), str(key)
