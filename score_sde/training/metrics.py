"""What a run reports: a line on the terminal, metrics.jsonl, TensorBoard events."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from types import TracebackType


class Metrics:
    """Writes each row of metrics to all three places; a context manager.

    Rows of steps after `start_step` that an interrupted run left behind are removed,
    so that the file reads like that of a run without interruption.
    """

    def __init__(self, workdir: Path, *, start_step: int, num_steps: int):
        self._num_steps = num_steps
        self._path = workdir / "metrics.jsonl"
        _drop_rows_after(self._path, start_step)
        self._file = self._path.open("a")
        self._events = None
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            print("tensorboardX is not installed: no TensorBoard events.")
        else:
            directory = str(workdir / "tensorboard")
            self._events = SummaryWriter(directory, purge_step=start_step + 1)
        self._first = self._previous = (start_step, time.monotonic())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()
        if sys.stdout.isatty():
            print()

    def start_clock(self, step: int) -> None:
        """Count speed from here: the first step compiled."""
        self._first = self._previous = (step, time.monotonic())

    def write(self, step: int, values: dict[str, float], *, images: int) -> None:
        """Report the values of a step, of `images` examples."""
        now = time.monotonic()
        steps, seconds = step - self._previous[0], now - self._previous[1]
        speed = steps * images / seconds if steps else float("nan")
        self._previous = (step, now)
        row = {"step": step, **values, "images_per_second": round(speed, 1)}
        # JSON has no NaN, which stands where no step was taken.
        known = {n: v if math.isfinite(v) else None for n, v in row.items()}
        self._file.write(json.dumps(known) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, step)
        self._show(step, values["loss"], speed, now)

    def _show(self, step: int, loss: float, speed: float, now: float) -> None:
        done = step - self._first[0]
        pace = (now - self._first[1]) / done if done else float("nan")
        left = pace * (self._num_steps - step)
        line = (
            f"step {step:>7,}/{self._num_steps:,}  loss {loss:.4f}  "
            f"{speed:,.0f} images/s  {_duration(left)} left"
        )
        # One line that is rewritten on a terminal, one after another in a log.
        if sys.stdout.isatty():
            print(f"\r{line}  ", end="", flush=True)
        else:
            print(line, flush=True)


def _duration(seconds: float) -> str:
    if not seconds < 1e7:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the run ended
        if row["step"] <= step:
            kept.append(line + "\n")
    path.write_text("".join(kept))
