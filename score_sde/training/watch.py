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
"""Steps whose gradients tell what is usual."""


class NonFiniteLossError(Exception):
    """Loss or gradient were NaN or infinite too often; the message says when."""


class Watch:
    """Counts updates that were left out, and reports gradients of unusual length."""

    def __init__(self, max_skipped: int, spike_factor: float):
        self._max_skipped = max_skipped
        self._spike_factor = spike_factor
        self._in_row = 0
        self._norms: deque[float] = deque(maxlen=REMEMBERED)

    def means(
        self, rows: Sequence[Mapping[str, Any]], *, last_step: int
    ) -> dict[str, float]:
        """Each metric's mean over the steps that were taken; the number of the others.

        Args: `rows`, of scalars or one number for each of several steps, on devices.
        Raises: NonFiniteLossError if too many in a row were left out.
        """
        columns = {
            name: np.concatenate([np.atleast_1d(row[name]) for row in read])
            for read in [jax.device_get(list(rows))]
            for name in ("loss", "gradient_norm", "skipped")
        }
        skipped = columns.pop("skipped").astype(bool)
        first_step = last_step + 1 - len(skipped)
        for i, was_skipped in enumerate(skipped):
            if was_skipped:
                self._report_skipped(
                    {n: c[i] for n, c in columns.items()}, first_step + i
                )
            else:
                self._in_row = 0
                self._report_spike(columns["gradient_norm"][i], first_step + i)
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

    def _report_spike(self, norm: float, step: int) -> None:
        usual = float(np.median(self._norms)) if len(self._norms) >= 20 else math.inf
        if norm > self._spike_factor * usual:
            print(
                f"the gradient was {norm:.3g} long at step {step:,}, where "
                f"{usual:.3g} is usual.",
                file=sys.stderr,
            )
        self._norms.append(float(norm))
