"""The price of checking arguments: small samples with the checks, and without them.

    python -m benchmarks.checks [--json=FILE] [--repeat=30]

`ss.sample` of 4 examples of 16 numbers, in 10 steps, by samplers with and without
noise: called as it is, and inside of `jax.jit`, where checks are made once, when it is
traced. "Without" replaces every check of the sampling loop by a function that does
nothing. In turns, the median of the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import jax.random as jr

import score_sde as ss
from benchmarks.laws import write
from benchmarks.turns import in_turns
from score_sde.samplers import Sampler, loop

CHECKS = ("_check_grid", "_check_noise", "check_alike")
SAMPLERS = ("euler", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_sde")


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """The sampling loop without its checks."""
    with contextlib.ExitStack() as stack:
        for name in CHECKS:
            put = (lambda _, a, x: a) if name == "check_alike" else (lambda *a: None)
            stack.enter_context(mock.patch.object(loop, name, put))
        stack.enter_context(mock.patch.object(Sampler, "check_model", lambda *a: None))
        yield


def smooth(x: Any, sigma: Any, cond: Any = None) -> Any:
    """A denoiser that costs next to nothing, so that checks would be seen."""
    return jnp.tanh(x) / (1 + jnp.asarray(sigma, x.dtype) ** 2)


def ratios(name: str, repeat: int) -> dict[str, Any]:
    """Times with checks over times without."""
    x = 2.0 * jr.normal(jr.key(0), (4, 16))
    sigmas = ss.grids.karras(10, sigma_min=0.1, sigma_max=2.0)

    def draw(x: Any) -> Any:
        return ss.sample(name, smooth, x, sigmas, key=jr.key(1)).x

    compiled = jax.jit(draw)

    def plain(call: Callable[[Any], Any]) -> None:
        call(x).block_until_ready()

    def without(call: Callable[[Any], Any]) -> None:
        with unchecked():
            plain(call)

    found = {}
    for kind, call in (("as it is", draw), ("compiled", compiled)):
        seconds = in_turns(
            {"with": partial(plain, call), "without": partial(without, call)},
            repeat=repeat,
        )
        pairs = zip(seconds["with"], seconds["without"], strict=True)
        found[kind] = statistics.median(a / b for a, b in pairs)
        found[f"{kind}, ms"] = 1e3 * statistics.median(seconds["with"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=30)
    arguments = parser.parse_args()
    rows = []
    for name in SAMPLERS:
        row = {"sampler": name, **ratios(name, arguments.repeat)}
        rows.append(row)
        print(
            f"{name:<18} as it is {row['as it is']:.3f} ({row['as it is, ms']:.1f} ms)  "
            f"compiled {row['compiled']:.3f} ({row['compiled, ms']:.2f} ms)",
            flush=True,
        )
    write(arguments.json, rows)


if __name__ == "__main__":
    main()
