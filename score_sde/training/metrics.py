"""Reports of a run: a line on the terminal, metrics.jsonl, TensorBoard events.

And Weights & Biases, if it is installed and asked for by WANDB_PROJECT.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from score_sde.data.local import replaced
from score_sde.runtime.progress import duration


class Metrics:
    """A context manager that writes each row of metrics to all of these places.

    Rows of steps after `start_step` that an interrupted run left behind are removed,
    so that the file reads like that of a run without interruption.

    Args:
        workdir: the folder of the run.
        start_step: the step that training starts from.
        num_steps: the step that it ends at.
        writes: whether this host writes.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start_step: int,
        num_steps: int,
        writes: bool = True,
    ):
        self._num_steps = num_steps
        self._first = (start_step, time.monotonic())
        self._previous = start_step
        self._file: Any = None
        self._events: Any = None
        self._wandb: Any = None
        if not writes:
            return
        path = workdir / "metrics.jsonl"
        _drop_rows_after(path, start_step)
        self._file = path.open("a")
        self._events = _tensorboard(workdir / "tensorboard", start_step)
        self._wandb = _wandb(workdir)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._file is not None:
            self._file.close()
            if sys.stdout.isatty():
                print()

    def start_clock(self, step: int) -> None:
        """Count the time left from here: the first step compiled."""
        self._first = (step, time.monotonic())

    def write(
        self,
        step: int,
        values: Mapping[str, float],
        *,
        images: int,
        flops: float,
        seconds: Mapping[str, float],
    ) -> None:
        """Report the values of a step.

        Args:
            step: that was reached.
            values: metrics by name.
            images: examples of each step since the last report.
            flops: operations of each of these steps; 0 if unknown.
            seconds: since the last report, as `Goodput` counted them.
        """
        if self._file is None:
            return
        steps = step - self._previous
        self._previous = step
        pace = seconds["steps"] / steps if steps and seconds["steps"] else math.nan
        row = {
            "step": step,
            **values,
            "images_per_second": round(images / pace, 1),
            "seconds_per_step": round(pace, 6),
            "data_wait": round(seconds["data"] / (pace * steps), 4),
            "save_seconds": round(seconds["save"], 4),
        }
        if flops:
            row["tflops_per_second"] = round(flops / pace / 1e12, 4)
        # JSON has no NaN, which stands where no step was taken.
        known = {n: v if math.isfinite(v) else None for n, v in row.items()}
        self._file.write(json.dumps(known) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(known, step=step)
        self._show(row)

    def _show(self, row: Mapping[str, float]) -> None:
        now, step = time.monotonic(), int(row["step"])
        done = step - self._first[0]
        pace = (now - self._first[1]) / done if done else math.nan
        parts = [
            f"step {step:>7,}/{self._num_steps:,}",
            f"loss {row['loss']:.4f}",
            f"{row['images_per_second']:,.0f} images/s",
            f"{1e3 * row['seconds_per_step']:,.3g} ms/step",
        ]
        if "tflops_per_second" in row:
            parts.append(f"{row['tflops_per_second']:.3g} TFLOP/s")
        if row["data_wait"] >= 0.01:
            parts.append(f"data wait {row['data_wait']:.0%}")
        if row["save_seconds"] >= 0.01:
            parts.append(f"save {row['save_seconds']:.2f} s")
        line = "  ".join([*parts, f"{duration(pace * (self._num_steps - step))} left"])
        # One line that is rewritten on a terminal, one after another in a log.
        if sys.stdout.isatty():
            print(f"\r{line}  ", end="", flush=True)
        else:
            print(line, flush=True)
        if measured := _with_intervals(row):
            print("\n" * sys.stdout.isatty() + f"  {measured}", flush=True)


def _with_intervals(values: Mapping[str, float]) -> str:
    """The values that have an interval: name [low, high] of each, "" without any."""
    found = (
        (name, value, values[f"{name}.low"], values[f"{name}.high"])
        for name, value in values.items()
        if f"{name}.low" in values
    )
    return ", ".join(
        f"{n} {v:.4g} [{low:.4g}, {high:.4g}]" for n, v, low, high in found
    )


def _tensorboard(directory: Path, start_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("tensorboardX is not installed: no TensorBoard events.")
        return None
    return SummaryWriter(str(directory), purge_step=start_step + 1)


def _wandb(workdir: Path) -> Any:
    project = os.environ.get("WANDB_PROJECT")
    if not project:
        return None
    try:
        import wandb
    except ImportError:
        print("WANDB_PROJECT is set, but wandb is not installed: it gets no metrics.")
        return None
    # The same run again when it is resumed.
    name = str(workdir.absolute()).strip("/").replace("/", "-")
    return wandb.init(project=project, id=name, resume="allow", dir=str(workdir))


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
    with replaced(path) as partial:
        partial.write_text("".join(kept))
