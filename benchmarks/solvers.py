"""Evaluations and error of the likelihood's solvers on a trained run, as a table.

    python -m benchmarks.solvers --workdir=runs/digits [--count=64] [--json=FILE]

All solve the same points with the same probe. The reference is Dopri5 at a tolerance
of 1e-6. Errors are in bits/dim: of the mean, and root mean square of an example.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np

import score_sde as ss
from benchmarks import record
from score_sde import data
from score_sde.multistep_flow import Multistep
from score_sde.run.likelihoods import even_in_log_sigma


def settings(sde: ss.SDE) -> dict[str, dict[str, Any]]:
    """Name of a row -> options of `log_prob`."""
    rows: dict[str, dict[str, Any]] = {}
    for tolerance in (1.2e-3, 1e-3, 2.5e-4, 1e-4, 1e-5):
        both = {"rtol": tolerance, "atol": tolerance}
        rows[f"dopri5, {tolerance:g}"] = both
        for order in (3, 4):
            solver = {"solver": Multistep(order)}
            rows[f"multistep {order}, {tolerance:g}"] = both | solver
    for num_steps in (31, 39, 47, 63):
        for order in (3, 4):
            rows[f"multistep {order}, {num_steps} steps"] = {
                "solver": Multistep(order),
                "times": even_in_log_sigma(sde, num_steps),
            }
    return rows


def table(workdir: Path, count: int) -> list[dict[str, Any]]:
    """One row for each solver."""
    run = ss.open_run(workdir)
    rows = run.dataset.test[np.arange(count)]
    levels = run.dataset.num_levels
    x = data.dequantise(jr.key(0), rows["values"], num_levels=levels)
    score = ss.make_score(run.denoiser, run.sde)
    num_dims = math.prod(x.shape[1:])

    def bits(**options: Any) -> tuple[np.ndarray, float]:
        solve = partial(ss.log_prob, sde=run.sde, score=score, key=jr.key(1), **options)
        out = jax.jit(solve)(x)
        found = ss.bits_per_dim(out.nats, num_dims, num_levels=levels)
        return np.asarray(found, np.float64), float(out.num_evals.mean())

    reference, evals = bits(rtol=1e-6, atol=1e-6)
    found: list[dict[str, Any]] = [
        {"solver": "dopri5, 1e-06", "evaluations": evals, "mean": reference.mean()}
    ]
    for name, options in settings(run.sde).items():
        ours, evals = bits(**options)
        off = ours - reference
        found.append(
            {
                "solver": name,
                "evaluations": evals,
                "error_of_mean": off.mean(),
                "rms_error": float(np.sqrt((off**2).mean())),
            }
        )
        print(
            f"{name:24} {evals:6.1f} evaluations  mean {off.mean():+.1e}  "
            f"rms {found[-1]['rms_error']:.1e}",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = table(given.workdir, given.count)
    made = record.circumstances("diffrax") | {"examples": given.count, "rows": rows}
    record.write(given.json, made)


if __name__ == "__main__":
    main()
