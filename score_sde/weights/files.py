"""Any weight file, recognised by its content and read as data."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.types import UserError
from score_sde.weights import torch_files

FORMATS = (
    "safetensors, npz, a PyTorch file, a pickle of EDM or EDM2, a Flax msgpack file, "
    "or the .index.json of several"
)

INDEX = ".index.json"
"""The end of the name of an index of several files."""

LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, by its specification: longer ones are other files'."""

OLD_PICKLES = (b"(", b"c", b"]", b"}")
"""First bytes of pickles from before they said their protocol."""


def read(path: Path) -> Any:
    """Read a weight file: nested dicts and lists of arrays, tensors and records.

    Raises: UserError that says what is wrong with the file, or that there is none.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file in it.")
    if not path.is_file():
        raise UserError(f"no file {path}.")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    with path.open("rb") as stream:
        start = stream.read(16)
    try:
        if start.startswith(b"PK"):
            return _read_archive(path)
        header = int.from_bytes(start[:8], "little")
        if start[8:9] == b"{" and header < LONGEST_HEADER:
            return _read_safetensors(path)
        if start[:1] in (b"\x80", *OLD_PICKLES):
            return _read_pickles(path)
        if start[:1] and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
            return _read_msgpack(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # whatever a damaged file makes its reader say
        kind = type(error).__name__
        raise UserError(f"{path} is damaged or cut off: {kind}, {error}.") from None
    if start.startswith(b"version https://"):
        raise UserError(f"{path} is a pointer to a file that git lfs has; fetch it.")
    raise UserError(f"{path} is no weight file that is known: {FORMATS}.")


def _read_shards(path: Path) -> Any:
    """Read the files beside an index, which says which of them has which tensor."""
    try:
        files = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        if any(Path(name).name != name for name in files):
            raise ValueError("a file in another folder")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no index of files: {error}.") from None
    content: dict[str, Any] = {}
    for name in files:
        part = read(path.with_name(name))
        if not isinstance(part, dict):
            raise UserError(f"{path.with_name(name)} holds no named tensors.")
        content |= part
    return content


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        if any(name.split("/")[-1] == "data.pkl" for name in archive.namelist()):
            return torch_files.read_zip(archive)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_pickles(path: Path) -> Any:
    with path.open("rb") as stream:
        return torch_files.read_stream(stream)


def _read_safetensors(path: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_msgpack(path: Path) -> Any:
    from flax.serialization import msgpack_restore

    return msgpack_restore(path.read_bytes())
