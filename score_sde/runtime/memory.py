"""Settings of the C library for memory that a program on CPUs gives back."""

from __future__ import annotations

import ctypes
from importlib.metadata import PackageNotFoundError, entry_points, version

SETTINGS = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, 2**30),
}
"""Number (malloc.h) and value of each: one heap, nothing beside it, and up to a
gigabyte of it that is free is kept."""


def keep_freed_memory() -> None:
    """Keep it for the next step, where there are CPUs alone and the C library is glibc.

    XLA takes all that a step needs anew. From the system it comes page by page, filled
    with zeros: a quarter of the time of a step, for networks of more than digits.
    To be called before JAX starts its threads, each of which has a heap otherwise.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and not _has_accelerator():
        for number, value in SETTINGS.values():
            mallopt(number, value)


def _has_accelerator() -> bool:
    """Whether JAX could find one, without starting it: GPUs are plugins of it."""
    try:
        return bool(entry_points(group="jax_plugins") or version("libtpu"))
    except PackageNotFoundError:
        return False
