"""What the record of a benchmark says of its making, and how it is kept."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import score_sde

PACKAGES = ("jax", "jaxlib", "numpy")


def circumstances(*packages: str) -> dict[str, Any]:
    """The date, the machine and its load, our version, those of `PACKAGES` and others.

    The cores are those that the program may use; the load is of all programs, on
    average over the last minute.
    """
    names = dict.fromkeys((*PACKAGES, *packages))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load": round(os.getloadavg()[0], 2),
        # Ours is that of the checkout, which need not be installed.
        "versions": {
            "python": platform.python_version(),
            "score_sde": score_sde.__version__,
        }
        | {name: importlib.metadata.version(name) for name in names},
    }


def write(path: Path | None, record: Mapping[str, Any]) -> None:
    """Keep a record in a file, if one is asked for."""
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n")
