"""Looks through the metrics of every step for numbers that went wrong."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

REMEMBERED = 200
"""Steps that tell what is usual."""
NEEDED = 20
"""Steps before which nothing is unusual."""


class NonFiniteLossError(Exception):
    """Loss or gradient were NaN or infinite too often; the message says when."""


class Watch:
    """Counts updates that were left out, and reports what is unusual.

    A gradient spike_factor times longer than the median of those before, and a loss as
    many times further above the median than losses are on average from it. `spiked`
    says whether there was one in the last `means`.
    """

    def __init__(self, max_skipped: int, spike_factor: float):
        self._max_skipped = max_skipped
        self._spike_factor = spike_factor
        self._in_row = 0
        self._norms: deque[float] = deque(maxlen=REMEMBERED)
        self._losses: deque[float] = deque(maxlen=REMEMBERED)
        self.spiked = False

    def means(
        self, rows: Sequence[Mapping[str, Any]], *, last_step: int
    ) -> dict[str, float]:
        """Each metric's mean over the steps that were taken; the number of the others.

        Args:
            rows: metrics of calls, scalars or one number for each of several steps, on
                devices.
            last_step: the step that the last call reached.

        Raises:
            NonFiniteLossError: if too many in a row were left out.
        """
        columns = {
            name: np.concatenate([np.atleast_1d(row[name]) for row in read])
            for read in [jax.device_get(list(rows))]
            for name in ("loss", "gradient_norm", "skipped")
        }
        skipped = columns.pop("skipped").astype(bool)
        first_step, self.spiked = last_step + 1 - len(skipped), False
        for i, was_skipped in enumerate(skipped):
            if was_skipped:
                self._report_skipped(
                    {n: c[i] for n, c in columns.items()}, first_step + i
                )
            else:
                self._in_row = 0
                self._look_at_norm(float(columns["gradient_norm"][i]), first_step + i)
                self._look_at_loss(float(columns["loss"][i]), first_step + i)
        taken = {
            name: float(column[~skipped].mean(dtype=np.float64))
            for name, column in columns.items()
            if not skipped.all()
        }
        missing = {n: math.nan for n in columns if n not in taken}
        return taken | missing | {"skipped": float(skipped.sum())}

    def _report_skipped(self, values: dict[str, float], step: int) -> None:
        self._in_row += 1
        wrong = next(n for n, value in values.items() if not np.isfinite(value))
        what = f"{wrong} was {values[wrong]} at step {step:,}"
        print(f"{what}: its update was left out.", file=sys.stderr)
        if self._in_row > self._max_skipped:
            raise NonFiniteLossError(
                f"{what}, after {self._in_row - 1} others in a row: training stopped. "
                "The newest checkpoint is from before them or has none of their "
                "updates; the batch of a step is a function of seed and step."
            )

    def _look_at_norm(self, norm: float, step: int) -> None:
        usual = _median(self._norms)
        if norm > self._spike_factor * usual:
            self._report_spike(f"the gradient was {norm:.3g} long", step, usual)
        self._norms.append(norm)

    def _look_at_loss(self, loss: float, step: int) -> None:
        # Not a multiple of the median: a loss may be negative.
        usual = _median(self._losses)
        distance = sum(abs(x - usual) for x in self._losses) / max(1, len(self._losses))
        if loss - usual > self._spike_factor * distance:
            self._report_spike(f"the loss was {loss:.3g}", step, usual)
        self._losses.append(loss)

    def _report_spike(self, what: str, step: int, usual: float) -> None:
        self.spiked = True
        print(f"{what} at step {step:,}, where {usual:.3g} is usual.", file=sys.stderr)


def _median(numbers: deque[float]) -> float:
    """Infinite of too few to tell."""
    return float(np.median(numbers)) if len(numbers) >= NEEDED else math.inf
