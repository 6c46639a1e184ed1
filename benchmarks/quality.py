"""Quality against evaluations of every sampler, in features, on a trained run.

    python -m benchmarks.quality --workdir=runs/digits [--json=FILE] [--budgets=10,35]

The Frechet distance, with its interval, and the kernel distance, which has no bias, of
samples to the training images in the features of the run's config. Karras levels, as
many steps as the evaluations allow; the same noise for all. "data" is held-out images
beside the same training images: no sampler can be expected below it. The JSON file is
written after each sampler.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import score_sde as ss
from benchmarks import record
from benchmarks.samplers import ADAPTIVE, SKIPPED, Problem, drawn, num_steps, trained
from benchmarks.splits import all_rows
from score_sde.evaluation import frechet_distance, kernel_distance, split_half_floor
from score_sde.run.extraction import open_features
from score_sde.samplers import SAMPLERS, Sampler

TOLERANCES = (1.0, 0.1)
"""Of adaptive samplers, which choose their own number of steps."""
MOST_PAIRED = 10_000
"""Training images of a kernel distance, which takes all pairs of them."""


def choices(name: str, problem: Problem, budgets: list[int]) -> list[tuple[Any, Any]]:
    """A sampler at each budget with its grid; an adaptive one at each tolerance."""
    if name in ADAPTIVE:
        makers: Any = SAMPLERS[name]
        ends = problem.grid(2)
        return [(makers(rtol=t, atol=0.15 * t), ends) for t in TOLERANCES]
    sampler: Sampler = SAMPLERS[name]()
    steps = dict.fromkeys(num_steps(sampler, problem, b) for b in budgets)
    return [(sampler, problem.grid(n)) for n in steps if n is not None]


def row_of(real: np.ndarray, fake: np.ndarray) -> dict[str, Any]:
    """Both distances of a set of features to that of the training images."""
    frechet = frechet_distance(real, fake)
    kernel = kernel_distance(real[:MOST_PAIRED], fake)
    return {
        "frechet": frechet.value,
        "interval": [frechet.low, frechet.high],
        "bias": frechet.parts["bias"],
        "kernel": kernel.value,
        "kernel_interval": [kernel.low, kernel.high],
        "samples": len(fake),
    }


def measured(
    problem: Problem,
    real: np.ndarray,
    held_out: np.ndarray,
    features_of: Callable[[Any], np.ndarray],
    budgets: list[int],
    keep: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Measure every sampler; `keep` gets all rows after each.

    Args:
        problem: the model, and the noise of the samples.
        real: features of the training images, [examples, dims].
        held_out: those of held-out images, as many as samples.
        features_of: samples as the model draws them -> their features.
        budgets: evaluations of the network.
        keep: is given all rows so far.
    """
    floor = split_half_floor(frechet_distance, real)
    rows = [
        {"sampler": "data", "evals": 0.0, **row_of(real, held_out)},
        {
            "sampler": "two halves of training data",
            "evals": 0.0,
            "frechet": floor.value,
        },
    ]
    for name in SAMPLERS:
        if name in SKIPPED:
            continue
        for sampler, sigmas in choices(name, problem, budgets):
            start = time.monotonic()
            x, evals = drawn(problem, sampler, sigmas)
            good = np.isfinite(np.asarray(x).reshape(len(x), -1)).all(1)
            row = {"sampler": name, "evals": evals, "failed": int((~good).sum())}
            if good.sum() > 1:
                row |= row_of(real, features_of(x[good]))
            rows.append(row)
            seconds = time.monotonic() - start
            text = " ".join(f"{row.get(k, float('nan')):.4g}" for k in COLUMNS)
            print(f"{name:<22} {text}  ({seconds:.0f} s)", flush=True)
        keep(rows)


COLUMNS = ("evals", "frechet", "kernel")


def table(rows: list[dict[str, Any]], budgets: list[int]) -> str:
    """A line for each sampler: both distances at the most evaluations within each."""
    head = [f"FD, {b}" for b in budgets] + [f"1000 KD, {b}" for b in budgets]
    lines = [f"| sampler | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for name in dict.fromkeys(row["sampler"] for row in rows):
        cells = []
        for value, scale in (("frechet", 1.0), ("kernel", 1e3)):
            for budget in budgets:
                known = [r for r in rows if r["sampler"] == name and value in r]
                within = [r for r in known if r["evals"] <= budget]
                best = max(within, key=lambda r: r["evals"]) if within else None
                cells.append("" if best is None else f"{scale * best[value]:.3g}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--num_samples", type=int, default=1_000)
    parser.add_argument("--budgets", default="10,20,35")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    budgets = [int(text) for text in given.budgets.split(",")]
    problem = trained(given.workdir, given.num_samples)
    run = ss.open_run(given.workdir)
    extraction = open_features(run.experiment, run.config)
    shown, model = run.experiment.shown, run.experiment.model
    real = extraction.features(all_rows(shown.train)["values"])
    number = min(given.num_samples, len(shown.test))
    fresh = shown.test[np.arange(number)]["values"]

    def features_of(x: Any) -> np.ndarray:
        points = model.render(run.params, x, None)  # images, of latents
        levels = ss.data.to_levels(points, num_levels=shown.num_levels)
        return extraction.features(np.asarray(levels))

    result = record.circumstances("flax") | {
        "command": f"python -m benchmarks.quality --workdir={given.workdir.name} "
        f"--num_samples={given.num_samples} --budgets={given.budgets}",
        "features": extraction.identity,
    }
    kept: list[dict[str, Any]] = []

    def keep(rows: list[dict[str, Any]]) -> None:
        kept[:] = rows
        record.write(given.json, result | {"rows": rows})

    measured(problem, real, extraction.features(fresh), features_of, budgets, keep)
    print("\n" + table(kept, budgets))


if __name__ == "__main__":
    main()
