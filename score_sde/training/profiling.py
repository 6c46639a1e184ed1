"""A trace of some steps, for XProf or Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

WARM_UP = 5
"""Steps before the trace: the first compiles."""


class Profiler:
    """Traces num_steps steps of a run into workdir/profile; 0 for none."""

    def __init__(self, workdir: Path, num_steps: int):
        self._folder = workdir / "profile"
        self._num_steps = num_steps
        self._is_tracing = False

    def after(self, steps: int, metrics: Any) -> None:
        """To be called with how many steps this program has taken, and the last's."""
        if not self._num_steps:
            return
        if not self._is_tracing and steps >= WARM_UP:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(str(self._folder))
            self._is_tracing, self._end = True, steps + self._num_steps
        elif self._is_tracing and steps >= self._end:
            jax.block_until_ready(metrics)
            self.stop()

    def stop(self) -> None:
        """End the trace, if there is one."""
        if self._is_tracing:
            jax.profiler.stop_trace()
            self._is_tracing, self._num_steps = False, 0
            print(f"\ntraced: {self._folder}")
