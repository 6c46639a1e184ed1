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

PACKAGES = ("jax", "jaxlib", "numpy", "score_sde")


def circumstances(*packages: str) -> dict[str, Any]:
    """The date, the machine and its load, and versions of packages beside `PACKAGES`.

    The cores are those that the program may use; the load is of all programs, on
    average over the last minute.
    """
    names = dict.fromkeys((*PACKAGES, *packages))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
    }


def write(path: Path | None, record: Mapping[str, Any]) -> None:
    """Keep a record in a file, if one is asked for."""
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n")
