"""Signals that ask a program to end, and how it answers.

The first SIGTERM or Ctrl-C asks: whoever works looks at `requested` between units of
work, leaves them in order and raises `Stopped`. The second ends the program at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_received: list[int] = []


class Stopped(Exception):
    """Work was left in order because a signal asked for it; the message says where."""


def requested() -> bool:
    """Whether a signal has asked to stop."""
    return bool(_received)


def stop_if_requested(message: str) -> None:
    """Raises: `Stopped` with the message, if a signal has asked to stop."""
    if _received:
        raise Stopped(message)


@contextmanager
def listening() -> Iterator[None]:
    """Within it signals are requests; the main thread alone may enter."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before: dict[int, Any] = {n: signal.signal(n, _receive) for n in numbers}
    try:
        yield
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _receive(number: int, frame: FrameType | None) -> None:
    del frame
    if _received:
        os._exit(128 + number)
    _received.append(number)
    # Not print: the signal may have interrupted a print.
    os.write(2, b"\nstopping after this unit of work; once more stops at once\n")
