"""Time several programs in turns, so that what the machine does meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


def in_turns(
    sides: Mapping[str, Callable[[], Any]],
    repeat: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call of each side, after a first turn that compiles.

    Args:
        sides: name -> what is timed, which returns when its work is done.
        repeat: number of turns that count.
        clock: wall-clock seconds, or the processor's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeat + 1):
        for name, run in sides.items():
            began = clock()
            run()
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def matrix_rate(side: int = 8192) -> float:
    """Operations a second of a product of random bfloat16 matrices of this side."""
    a, b = (jr.normal(k, (side, side), jnp.bfloat16) for k in jr.split(jr.key(0)))
    product = jax.jit(lambda a, b: a @ b)
    calls = 20

    def run() -> None:
        jax.block_until_ready([product(a, b) for _ in range(calls)])

    return 2 * calls * side**3 / float(np.median(in_turns({"xla": run}, 5)["xla"]))
