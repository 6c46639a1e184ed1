"""Paths on this machine: refusing addresses, and writing a file whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
def replaced(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` if nothing goes wrong meanwhile.

    What stood there before stays whole until then; the folder is made if needed. Two
    programs may write at once, on one machine or on two: each has a file of its own
    until it is done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
