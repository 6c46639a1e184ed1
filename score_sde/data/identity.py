"""The identity of data: what they hold, whatever they are called and wherever they are.

    {"format": {"shape": [28, 28, 1], "num_levels": 256, ...},
     "counts": {"train": 57000, "test": 3000},
     "digest": "5f3a..."}

The digest is the SHA-256 of every example and label of both splits, in their order.
It depends on no batch size, no number of workers, no host and no path. A picture is
known by its file, so that none has to be decoded; any other example by its values.

The identity of files is kept in $XDG_CACHE_HOME/score_sde/data (~/.cache by default),
under their paths, and holds as long as size, inode and both times of every file are
what they were, to the nanosecond.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.dataset import Dataset, Examples
from score_sde.data.local import replaced

VERSION = 1
"""Counted up when a picture file, or anything else, is read in another way."""
BLOCK = 1_000
"""Examples that are read at a time; the digest does not depend on it."""
SETTLED_NS = 2_000_000_000
"""Age from which a file that is changed again has another time, on any file system."""


def identity(dataset: Dataset) -> dict[str, Any]:
    """Find out what a data set holds: its format, counts, and the digest of all of it.

    Returns:
        A dict that JSON holds as it is. Two data sets are the same where theirs are.

    Raises:
        UserError: if the data are not there, or broken.
    """
    if dataset.identify is not None:
        return dataset.identify(dataset)
    return identity_of_contents(dataset)


def identity_of_contents(dataset: Dataset) -> dict[str, Any]:
    """Make the identity of a data set by reading all of it.

    Raises:
        UserError: if the data are not there, or broken.
    """
    splits = {name: dataset.split(name) for name in ("train", "test")}
    parts = [digest_of(examples) for examples in splits.values()]
    counts = {name: len(examples) for name, examples in splits.items()}
    return described(dataset, counts, digest_of_json(parts))


def described(dataset: Dataset, counts: dict[str, int], digest: str) -> dict[str, Any]:
    """Put an identity together.

    Args:
        dataset: whose format it has.
        counts: split -> number of examples.
        digest: of all that is in them.
    """
    format = json.loads(json.dumps(dataset.facts))
    return {"format": format, "counts": counts, "digest": digest}


def digest_of(examples: Examples) -> str:
    """Compute the SHA-256 of all examples of a split, and of their labels."""
    contents = getattr(examples, "contents", None)
    blocks = (
        np.arange(start, min(start + BLOCK, len(examples)))
        for start in range(0, len(examples), BLOCK)
    )
    if contents is not None:
        files = hashlib.sha256()
        for block in blocks:
            for content in contents(block):
                files.update(len(content).to_bytes(8, "little"))
                files.update(content)
        return files.hexdigest()
    columns: dict[str, Any] = {}
    for block in blocks:
        for name, values in examples[block].items():
            if name not in columns:
                columns[name] = hashlib.sha256()
            columns[name].update(_plain(name, values)[1])
    kinds = {
        name: [_plain(name, values)[0], list(values.shape[1:])]
        for name, values in examples[np.arange(1)].items()
    }
    parts = {name: column.hexdigest() for name, column in columns.items()}
    return digest_of_json([kinds, parts])


def digest_of_json(content: Any) -> str:
    """Compute the SHA-256 of what JSON can hold."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def identity_of_files(dataset: Dataset, paths: Sequence[Path]) -> dict[str, Any]:
    """Make the identity of data in files, or take the one that was kept.

    Args:
        dataset: opened anew, so that it is read as its files are now.
        paths: of all files that it reads, whole and without links.

    Raises:
        UserError: if the data are not there, or broken.
    """
    begun = time.time_ns()
    stamps, newest = _stamps(paths)
    key = digest_of_json([VERSION, dataset.facts, list(map(str, paths))])
    place = _cache_folder() / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(place.read_text())
        if kept["stamps"] == stamps:
            return kept["identity"]
    found = identity_of_contents(dataset)
    # Not kept: files that change meanwhile, or so soon that their times may not tell.
    if begun - newest >= SETTLED_NS and _stamps(paths)[0] == stamps:
        with contextlib.suppress(OSError), replaced(place) as partial:
            partial.write_text(json.dumps({"stamps": stamps, "identity": found}))
    return found


def _stamps(paths: Sequence[Path]) -> tuple[str, int]:
    """(digest of what the file system says of the files, time of the last change)."""
    found, newest = [], 0
    for path in paths:
        status = os.stat(path)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        found.append((status.st_size, status.st_ino, *times))
        newest = max(newest, status.st_ctime_ns)
    return digest_of_json(found), newest


def _cache_folder() -> Path:
    told = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(told) if told else Path("~/.cache").expanduser()
    return base / "score_sde" / "data"


def _plain(name: str, values: np.ndarray) -> tuple[str, bytes]:
    """(type, bytes) of a column of examples, the same on every machine.

    Whole numbers beside the values, such as labels, are alike however wide they are.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":  # texts, of a user's own data
        return "text", json.dumps(values.tolist(), default=str).encode()
    if name != "values" and values.dtype.kind in "biu":
        values = values.astype(np.int64)
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return values.dtype.str, values.tobytes()
