"""Progress of long runs: the levels of the grid that are passed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from score_sde.samplers.steps import SampleResult
from score_sde.types import Array

Evaluates = TypeVar("Evaluates", bound=Callable[..., Any])

Report = Callable[[int, int], object]
"""(levels passed, levels) -> anything; called on the host."""


def progress_bar(passed: int, total: int) -> None:
    """Draw a bar on stderr, over the last one."""
    width = 30
    filled = width * passed // total
    end = "\n" if passed == total else ""
    bar = "#" * filled + "." * (width - filled)
    print(f"\r[{bar}] {passed}/{total}", end=end, file=sys.stderr, flush=True)


def reporting(
    model: Evaluates, sigmas: Array, report: Report, *, place: int
) -> Evaluates:
    """Make the model report also how far the grid was when it was called.

    Args:
        model: a function of sigma and other arguments.
        sigmas: the grid.
        report: called with the levels that were passed, and their number.
        place: of sigma among the model's arguments.
    """

    def on_host(sigma: np.ndarray, sigmas: np.ndarray) -> None:
        # A sampler may reach a level with some rounding.
        passed = (sigmas[:-1] > sigma.max() * (1 + 1e-5)).sum()
        report(int(passed), len(sigmas) - 1)

    def observed(*arguments: Any) -> Any:
        jax.debug.callback(on_host, arguments[place], sigmas)
        return model(*arguments)

    return observed  # type: ignore[return-value]


def report_end(result: SampleResult, sigmas: Array, report: Report) -> None:
    """Report all levels, once the sample is there."""
    total = len(sigmas) - 1

    def on_host(_: np.ndarray) -> None:
        report(total, total)

    # With a value of the sample, or it may be called before there is one.
    jax.debug.callback(on_host, result.x.ravel()[0])
