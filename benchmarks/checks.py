"""The price of checking arguments: small samples with the checks, and without them.

    python -m benchmarks.checks [--json=FILE] [--repeat=30]

`ss.sample` of 4 examples of 16 numbers, in 10 steps, called as it is by samplers with
and without noise. "Without" replaces every check of the sampling loop by a function
that does nothing. In turns, the median of the ratios. Inside of `jax.jit` the checks
are made once, while the call is traced.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import jax.random as jr

import score_sde as ss
from benchmarks import record
from benchmarks.turns import in_turns
from score_sde.samplers import Sampler, loop

NAMES = ("euler", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_sde")


def unlike(_: str, array: Any, like: Any) -> Any:
    """In the place of `check_alike`, which returns what it was given."""
    del like
    return array


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """The sampling loop without its checks."""
    with (
        mock.patch.object(loop, "_check_grid"),
        mock.patch.object(loop, "_check_noise"),
        mock.patch.object(loop, "warn_without_noise"),
        mock.patch.object(loop, "check_alike", unlike),
        mock.patch.object(Sampler, "check_model"),
    ):
        yield


def smooth(x: Any, sigma: Any, cond: Any = None) -> Any:
    """A denoiser that costs next to nothing, so that checks would be seen."""
    del cond
    return jnp.tanh(x) / (1 + jnp.asarray(sigma, x.dtype) ** 2)


def compared(name: str, repeat: int) -> dict[str, Any]:
    """The time with checks, and its ratio to that without."""
    x = 2.0 * jr.normal(jr.key(0), (4, 16))
    sigmas = ss.grids.karras(10, sigma_min=0.1, sigma_max=2.0)

    def draw() -> None:
        ss.sample(name, smooth, x, sigmas, key=jr.key(1)).x.block_until_ready()

    def without() -> None:
        with unchecked():
            draw()

    seconds = in_turns({"with": draw, "without": without}, repeat=repeat)
    pairs = zip(seconds["with"], seconds["without"], strict=True)
    return {
        "sampler": name,
        "milliseconds": 1e3 * statistics.median(seconds["with"]),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=30)
    arguments = parser.parse_args()
    rows = []
    for name in NAMES:
        rows.append(row := compared(name, arguments.repeat))
        print(
            f"{name:<18} {row['milliseconds']:7.1f} ms {row['ratio']:.3f}", flush=True
        )
    record.write(arguments.json, record.circumstances() | {"rows": rows})


if __name__ == "__main__":
    main()
