"""Which checkpoints of a run are kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept: a step that any of the rules keeps.

    newest: how many of the newest, for resuming.
    every: those whose step is a multiple of it, for ever; 0 for none.
    best: how many of those with the lowest test_loss.
    """

    newest: int = 2
    every: int = 0
    best: int = 0

    def kept(self, test_losses: Mapping[int, float]) -> set[int]:
        """The steps to keep, given the test loss of each; inf if it is unknown."""
        steps = sorted(test_losses)
        ranked = sorted(steps, key=lambda step: (test_losses[step], -step))
        best = [s for s in ranked[: self.best] if math.isfinite(test_losses[s])]
        forever = [s for s in steps if self.every and s % self.every == 0]
        return {*steps[-self.newest :], *best, *forever}


KEEP_ALL = Retention(every=1)
