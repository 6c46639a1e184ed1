"""Evaluations and error of the likelihood's solvers on a trained run, as a table.

    python -m benchmarks.solvers --workdir=runs/digits [--count=64] [--json=FILE]

All solve the same points of test images with the same probes, both as the run draws
them. The reference is Dopri5 at a tolerance of 1e-6. Errors are in bits/dim: of the
mean, and root mean square of an example.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import score_sde as ss
from benchmarks import record
from score_sde.run.open import Run, open_run

REFERENCE = {"solver": "dopri5", "num_steps": 0, "rtol": 1e-6, "atol": 1e-6}


def settings() -> dict[str, dict[str, Any]]:
    """Name of a row -> fields of section `likelihood`."""
    rows: dict[str, dict[str, Any]] = {}
    for tolerance in (1.2e-3, 1e-3, 2.5e-4, 1e-4, 1e-5):
        both = {"num_steps": 0, "rtol": tolerance, "atol": tolerance}
        rows[f"dopri5, {tolerance:g}"] = {"solver": "dopri5", **both}
        for order in (3, 4):
            multistep = {"solver": "multistep", "order": order}
            rows[f"multistep {order}, {tolerance:g}"] = multistep | both
    for num_steps in (31, 39, 47, 63):
        for order in (3, 4):
            multistep = {"solver": "multistep", "order": order}
            rows[f"multistep {order}, {num_steps} steps"] = multistep | {
                "num_steps": num_steps
            }
    return rows


def held_out(run: Run, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of the first, and the rows, of each batch of so many test images.

    They come in a random order, the same for every count.
    """
    test, batch = run.dataset.test, run.experiment.likelihood.batch_size
    chosen = np.random.RandomState(0).permutation(len(test))[:count]
    for first in range(0, count, batch):
        yield first, test[chosen[first : first + batch]]


def bits(workdir: Path, count: int, fields: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Bits/dim of so many test images, and the mean of their evaluations."""
    config = json.loads((workdir / "config.json").read_text())
    config["likelihood"] |= fields
    run = open_run(workdir, config)
    found = [run.log_prob(rows, first=n) for n, rows in held_out(run, count)]
    nats, evals = (
        np.concatenate([np.asarray(getattr(f, name)) for f in found])
        for name in ("nats", "num_evals")
    )
    num_dims = math.prod(run.dataset.shape)
    each = ss.bits_per_dim(nats, num_dims, num_levels=None)
    return np.asarray(each, np.float64), float(evals.mean())


def table(workdir: Path, count: int) -> list[dict[str, Any]]:
    """One row for each solver."""
    reference, evals = bits(workdir, count, REFERENCE)
    found: list[dict[str, Any]] = [
        {"solver": "dopri5, 1e-06", "evaluations": evals, "mean": reference.mean()}
    ]
    for name, fields in settings().items():
        ours, evals = bits(workdir, count, fields)
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
