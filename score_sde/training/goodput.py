"""Accounts of the time of a run: its steps, or what they wait for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from score_sde.runtime.progress import duration

OVERHEADS = {
    "compile": "compiling",
    "data": "waiting for data",
    "save": "saving",
    "evaluate": "evaluating",
}
"""What is measured by `spent`, and how it is called; all other time is the steps'."""


class Goodput:
    """Seconds by what they were spent on, since it was made."""

    def __init__(self) -> None:
        self._began = self._marked = time.monotonic()
        self._seconds = dict.fromkeys(OVERHEADS, 0.0)
        self._at_mark = self._seconds.copy()

    @contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """Count the time within it as an overhead."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[what] += time.monotonic() - began

    def since_mark(self) -> dict[str, float]:
        """Seconds since the last call, of the steps and of each overhead."""
        now = time.monotonic()
        seconds = {k: self._seconds[k] - self._at_mark[k] for k in OVERHEADS}
        # Waiting for data is part of what a step takes.
        others = sum(seconds.values()) - seconds["data"]
        seconds["steps"] = now - self._marked - others
        self._marked, self._at_mark = now, self._seconds.copy()
        return seconds

    def summary(self) -> str:
        """The share of each, of the time since the beginning."""
        total = time.monotonic() - self._began
        shares = {OVERHEADS[k]: s / total for k, s in self._seconds.items()}
        shares = {"in steps": 1 - sum(shares.values()), **shares}
        parts = [f"{share:.1%} {name}" for name, share in shares.items()]
        return f"{duration(total)}: " + ", ".join(parts)
