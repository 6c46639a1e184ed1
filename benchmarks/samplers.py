"""Quality against evaluations of every sampler: a table and a Pareto plot.

    python -m benchmarks.samplers [--workdir=runs/digits] [--json=FILE] [--png=FILE]

On a mixture of Gaussians, whose denoiser is exact, and on the model of a trained run if
one is given. Karras levels, as many steps as the evaluations allow. Of each sampler:

- error: root mean square distance to the flow's own end, from the same noise, per
  dimension; for samplers without noise. The flow is Heun's at 256 steps.
- distance: sliced Wasserstein-2, 128 directions, to data; for the run these are images
  of its training set. The square root of the energy distance is in the JSON file.

"data" is the distance of fresh data to the same reference: no sampler can be expected
below it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import score_sde as ss
from benchmarks import record
from benchmarks.splits import all_rows
from score_sde.samplers import SAMPLERS, Sampler
from score_sde.types import Array, Denoise

BUDGETS = (5, 10, 15, 20, 35, 50, 100)
ADAPTIVE = ("dpm_adaptive", "adaptive_sde")
TOLERANCES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
SKIPPED = ("edm",)  # another name of heun


class Problem(NamedTuple):
    """What is sampled, and what the samples are held against."""

    name: str
    denoise: Denoise
    noise: Array
    """[batch, *dims], of unit variance."""
    reference: np.ndarray
    """Data, [count, dims]."""
    fresh: np.ndarray
    """Other data, as many as there is noise."""
    sigma_min: float
    sigma_max: float

    def grid(self, num_steps: int) -> Array:
        return ss.grids.karras(
            num_steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max
        )


def mixture(num_samples: int) -> Problem:
    """Eight narrow modes on a circle, of unequal weights, in two dimensions."""
    angles = 2 * np.pi * np.arange(8) / 8
    oracle = ss.oracles.GaussianMixture(
        0.5 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1),
        jnp.broadcast_to(0.03**2 * jnp.eye(2), (8, 2, 2)),
        jnp.arange(1.0, 9.0) / 36,
    )
    return Problem(
        "mixture",
        oracle.denoise,
        jr.normal(jr.key(0), (num_samples, 2)),
        np.asarray(oracle.sample(jr.key(1), 10 * num_samples)),
        np.asarray(oracle.sample(jr.key(2), num_samples)),
        sigma_min=0.002,
        sigma_max=80.0,
    )


def trained(workdir: Path, num_samples: int) -> Problem:
    """The model of a run, and its data as points of their bins."""
    run = ss.open_run(workdir)
    data = run.experiment.dataset

    def points(key: int, values: np.ndarray) -> np.ndarray:
        x = ss.data.dequantise(
            jr.key(key), jnp.asarray(values), num_levels=data.num_levels
        )
        return np.asarray(x).reshape(len(x), -1)

    return Problem(
        workdir.name,
        run.denoiser,
        jr.normal(jr.key(0), (num_samples, *data.shape)),
        points(1, all_rows(data.train)["values"]),
        points(2, all_rows(data.test)["values"][:num_samples]),
        sigma_min=0.002,
        sigma_max=80.0,
    )


def num_steps(sampler: Sampler, problem: Problem, budget: int) -> int | None:
    """The most steps whose evaluations are within the budget."""
    for steps in range(budget, 0, -1):
        if steps > 1 and int(sampler.num_evals(problem.grid(steps))) <= budget:
            return steps
    return None


def settings(name: str, problem: Problem) -> list[tuple[Sampler, Array]]:
    """A sampler at each budget, with its grid; an adaptive one at each tolerance."""
    if name in ADAPTIVE:
        ends = problem.grid(2)
        return [
            (SAMPLERS[name](rtol=tol, atol=0.15 * tol), ends)  # type: ignore[call-arg]
            for tol in TOLERANCES
        ]
    sampler = SAMPLERS[name]()
    steps = dict.fromkeys(num_steps(sampler, problem, b) for b in BUDGETS)
    return [(sampler, problem.grid(n)) for n in steps if n is not None]


def sliced_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-2 in 128 random directions, root mean square."""
    directions = np.random.RandomState(0).normal(size=(a.shape[1], 128))
    directions /= np.linalg.norm(directions, axis=0)
    ranks = (np.arange(1000) + 0.5) / 1000
    quantiles = (np.quantile(x @ directions, ranks, axis=0) for x in (a, b))
    first, second = quantiles
    return float(np.sqrt(((first - second) ** 2).mean()))


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Square root of 2 E|a - b| - E|a - a'| - E|b - b'|, of at most 2,000 each."""
    from scipy.spatial.distance import cdist, pdist

    a, b = a[:2000], b[:2000]
    between, inside = cdist(a, b).mean(), pdist(a).mean() + pdist(b).mean()
    return float(np.sqrt(max(0.0, 2 * between - inside)))


def drawn(problem: Problem, sampler: Sampler, sigmas: Array) -> tuple[Array, float]:
    """Samples, and the mean number of evaluations."""
    out = jax.jit(
        lambda noise, key: ss.sample(
            sampler, problem.denoise, sigmas[0] * noise, sigmas, key=key
        )
    )(problem.noise, jr.key(3))
    return out.x, float(jnp.mean(out.num_evals))


def measured(problem: Problem, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row per sampler and number of evaluations."""
    limit, _ = drawn(problem, SAMPLERS["heun"](), problem.grid(256))
    rows = [
        {
            "sampler": "data",
            "evals": 0,
            "distance": sliced_wasserstein(problem.fresh, problem.reference),
            "energy": energy_distance(problem.fresh, problem.reference),
        }
    ]
    for name in SAMPLERS:
        if name in SKIPPED:
            continue
        progress(name)
        for sampler, sigmas in settings(name, problem):
            x, evals = drawn(problem, sampler, sigmas)
            flat = np.nan_to_num(np.asarray(x).reshape(len(x), -1), posinf=0, neginf=0)
            row = {
                "sampler": name,
                "evals": evals,
                "distance": sliced_wasserstein(flat, problem.reference),
                "energy": energy_distance(flat, problem.reference),
            }
            if not sampler.stochastic:
                row["error"] = float(jnp.sqrt(jnp.mean((x - limit) ** 2)))
            rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]], value: str) -> None:
    """One line per sampler, one column per budget; the fewest evaluations that fit."""
    names = dict.fromkeys(row["sampler"] for row in rows if value in row)
    print(f"| {value} | " + " | ".join(str(b) for b in BUDGETS) + " |")
    print("|---" * (len(BUDGETS) + 1) + "|")
    for name in names:
        mine = [row for row in rows if row["sampler"] == name and value in row]

        def at(budget: int, mine: list[dict[str, Any]] = mine) -> str:
            within = [row for row in mine if row["evals"] <= budget]
            if not within:
                return ""
            return f"{max(within, key=lambda row: row['evals'])[value]:.2g}"

        print(f"| {name} | " + " | ".join(at(b) for b in BUDGETS) + " |")


def best(rows: list[dict[str, Any]], value: str) -> list[dict[str, Any]]:
    """The rows that no other beats with fewer evaluations: the Pareto front."""
    front: list[dict[str, Any]] = []
    some = [row for row in rows if row["evals"] >= min(BUDGETS) and value in row]
    for row in sorted(some, key=lambda row: (row["evals"], row[value])):
        if not front or row[value] < front[-1][value]:
            front.append(row)
    return front


def plot(path: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """Every sampler in grey, the Pareto front in colour, with names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2 * len(results)), layout="constrained")
    grid = figure.subplots(len(results), 2, squeeze=False)
    for line, (problem, rows) in zip(grid, results.items(), strict=True):
        for axes, value in zip(line, ("error", "distance"), strict=True):
            for name in dict.fromkeys(row["sampler"] for row in rows if value in row):
                mine = [row for row in rows if row["sampler"] == name and row["evals"]]
                axes.plot(
                    [row["evals"] for row in mine],
                    [row[value] for row in mine],
                    color="0.75",
                    linewidth=0.8,
                )
            front = best(rows, value)
            axes.plot(
                [row["evals"] for row in front],
                [row[value] for row in front],
                color="tab:red",
                marker="o",
            )
            for row in front:
                axes.annotate(
                    row["sampler"],
                    (row["evals"], row[value]),
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=7,
                )
            if value == "distance":
                floor = next(r[value] for r in rows if r["sampler"] == "data")
                axes.axhline(floor, color="tab:blue", linestyle=":", label="data")
                axes.legend()
            axes.set(
                xscale="log",
                yscale="log",
                xlim=(4.5, 120),
                ylim=(None, 10),  # langevin begins far above
                xlabel="evaluations",
                ylabel=value,
                title=problem,
            )
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, help="a trained run, such as digits")
    parser.add_argument("--num_samples", type=int, default=4_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    given = parser.parse_args()
    problems = []
    if given.workdir:  # first, since a run starts the devices its own way
        problems.append(trained(given.workdir, min(given.num_samples, 200)))
    problems.append(mixture(given.num_samples))
    results = {}
    for problem in problems:
        results[problem.name] = rows = measured(
            problem, lambda name: print(f"{name} ...", end=" ", flush=True)
        )
        print(f"\n\n{problem.name}, by number of evaluations\n")
        for value in ("error", "distance"):
            print_table(rows, value)
            print()
    record.write(given.json, record.circumstances() | results)
    if given.png:
        plot(given.png, results)


if __name__ == "__main__":
    main()
