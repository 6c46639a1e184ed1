"""Paths on this machine: refusing addresses, and writing a file whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from score_sde.rules import Rule
from score_sde.types import UserError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The beginning of gs://, s3://, https:// and others, but not of a drive, C:/."""


def is_local(path: str) -> bool:
    """Whether a path is not an address such as gs://bucket/data."""
    return ADDRESS.match(path) is None


OnThisMachine = Rule(
    "a path on this machine; copy what is at that address, or mount it, first",
    is_local,
)


def local_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Turn a text into a path.

    Args:
        path: the text; ~ is the user's home.
        name: of the option that states it, for the error.

    Raises:
        UserError: if it is an address such as gs://bucket/data.
    """
    if not is_local(str(path)):
        raise UserError(f"{name} is {str(path)!r}; it must be {OnThisMachine.text}.")
    return Path(path).expanduser()


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a stream whose content becomes the file `path` if nothing goes wrong.

    `runtime.folder` has the same for the files of a run; data stand on a lower floor.
    Two programs may write at once: each has a file of its own until it is done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
