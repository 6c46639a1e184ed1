"""The state of a run, from the files in its folder; no device is touched."""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from score_sde.runtime.folder import read_json
from score_sde.runtime.progress import duration
from score_sde.types import UserError

Row = dict[str, float | None]


class Status(NamedTuple):
    """The status of a run."""

    workdir: Path
    num_steps: int
    rows: list[Row]
    """Of metrics.jsonl."""
    checkpoints: list[int]
    damaged: list[str]
    """Checkpoints that were set aside."""
    writer: dict[str, Any] | None
    """Host and process that write it now."""
    seconds_since_report: float

    @property
    def step(self) -> int:
        """The last step that was reported."""
        return int(self.rows[-1]["step"] or 0) if self.rows else 0

    @property
    def has_begun(self) -> bool:
        """Whether there is a step, a report or a checkpoint that could be lost."""
        return bool(self.rows or self.checkpoints or self.damaged)

    def state(self) -> str:
        """One of: trained, running, imported, stopped, not started."""
        if self.num_steps in self.checkpoints:
            return "trained"
        if self.writer is not None:
            return "running"
        if self.checkpoints == [0] and not self.rows:
            return "imported"
        return "stopped" if self.has_begun else "not started"

    def text(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.workdir}: {self.state()}, {self.step:,} of {self.num_steps:,}"]
        lines[0] += " steps"
        if self.writer is not None:
            writer = self.writer
            lines.append(
                f"written by process {writer['pid']} of {writer['host']} since "
                f"{writer['since']}"
            )
        if self.rows:
            last = self.rows[-1]
            known = [(n, v) for n, v in last.items() if n != "step" and v is not None]
            lines.append("  ".join(f"{name} {value:.4g}" for name, value in known))
            age = duration(self.seconds_since_report)
            lines.append(f"last report {age} ago")
        skipped = sum(row.get("skipped") or 0 for row in self.rows)
        if skipped:
            lines.append(f"updates left out as not finite: {skipped:.0f}")
        steps = ", ".join(f"{step:,}" for step in self.checkpoints) or "none"
        lines.append(f"checkpoints: {steps}")
        if self.damaged:
            lines.append(f"damaged and set aside: {', '.join(self.damaged)}")
        return "\n".join(lines)


def read_status(workdir: Path) -> Status:
    """The state of the run in a folder.

    Raises: UserError if there is none, or its config is damaged.
    """
    config = workdir / "config.json"
    if not config.is_file():
        raise UserError(f"--workdir: no run in {workdir}: there is no {config}.")
    metrics = workdir / "metrics.jsonl"
    rows, age = read_rows(metrics), 0.0
    if metrics.exists():
        age = time.time() - metrics.stat().st_mtime
    folder = workdir / "checkpoints"
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return Status(
        workdir,
        read_json(config)["train"]["num_steps"],
        rows,
        sorted(int(name) for name in names if name.isdecimal()),
        [name for name in names if name.endswith(".corrupt")],
        _writer(workdir / ".lock"),
        age,
    )


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl that may be written right now; none without a file.

    Args:
        path: of the file.
    """
    rows: list[Row] = []
    if not path.exists():
        return rows
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the line that is being written
    return rows


def _writer(lock: Path) -> dict[str, Any] | None:
    """Who holds the lock of a run, if anyone does."""
    if not lock.exists():
        return None
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            owner: dict[str, Any] = json.loads(file.read())
            return owner
    return None
