"""A bar on stderr for long jobs, with the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeVar

from score_sde.runtime.mesh import is_main_host

Part = TypeVar("Part")

WIDTH = 24
QUIET_SECONDS = 60.0
"""Seconds between two lines in a log, which is no terminal."""


def duration(seconds: float) -> str:
    """Like 1h02m or 2m03s; '?' if unknown."""
    if not seconds < 1e7:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


class Progress:
    """A bar of the parts of a job, with the time that is left.

    A terminal shows one line that changes; a log gets a line a minute at most, and none
    of a job that is shorter.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begin to count.

        Args:
            what: what is computed.
            total: the number of parts.
            stream: where it is shown; stderr if None.
            clock: the time in seconds.
        """
        self.what, self.total = what, total
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self.begun = self.shown = clock()
        self.done: list[tuple[float, int]] = []

    def part_done(self, passed: int) -> None:
        """Show that `passed` parts are done, the last of them just now."""
        now = self.clock()
        self.done.append((now, passed))
        is_terminal, is_last = self.stream.isatty(), passed == self.total
        if not is_terminal and (is_last or now - self.shown < QUIET_SECONDS):
            return
        self.shown = now
        filled = WIDTH * passed // self.total
        bar = "#" * filled + "." * (WIDTH - filled)
        left = duration(self.seconds_a_part() * (self.total - passed))
        text = f"{self.what} [{bar}] {passed}/{self.total}  {left} left"
        end = "\n" if is_last or not is_terminal else ""
        if is_terminal:  # over the line before, of which nothing is left
            text = f"\r{text}\x1b[K"
        print(text, end=end, file=self.stream, flush=True)

    def seconds_a_part(self) -> float:
        """Mean time of a part; the first, which compiles, counts only by itself."""
        (first, begun_with), (last, passed) = self.done[0], self.done[-1]
        if passed == begun_with:
            return first - self.begun
        return (last - first) / (passed - begun_with)


def with_bar(what: str, parts: Sequence[Part]) -> Iterator[Part]:
    """Yield the parts of a job one by one, and show on the main host how many are done.

    A part counts as done when the next one is asked for. JAX returns before it has
    computed, so whoever asks must have waited for the part's result by then.

    Args:
        what: what is computed.
        parts: the parts, as many as there are.
    """
    progress = Progress(what, len(parts))
    for passed, part in enumerate(parts, start=1):
        yield part
        if is_main_host():
            progress.part_done(passed)
