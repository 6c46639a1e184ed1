"""Super-resolution of digits from 4x4 pixels by every training-free method.

    python -m benchmarks.restoration_digits --run=runs/digits [--json=FILE]

The 360 held-out digits, one sample each from an unconditional run. Root mean squares in
grey levels, of the small picture of a sample beside the one given, and of a sample
beside the digit; and the share that the judge puts into the digit's class: a support
vector machine that was trained on the real digits. Options are defaults but where a row
says so; steps and evaluations of the network are stated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from benchmarks.conditional import judge
from experiments import launch
from score_sde import editing
from score_sde.data import centres
from score_sde.editing import METHODS
from score_sde.guidance import network_evals
from score_sde.measurements import Downsample
from score_sde.run.model import denoiser
from score_sde.run.open import open_run
from score_sde.samplers import SAMPLERS, grids, sample

ROWS: tuple[tuple[str, int, str, dict[str, Any]], ...] = (
    ("replace", 18, "heun", {}),
    ("repaint", 18, "", {}),
    ("repaint", 18, "", {"jump_length": 3}),
    ("pseudo_inverse", 18, "heun", {}),
    ("moment_matching", 18, "heun", {}),
    ("dps", 18, "euler", {}),
    ("dps", 100, "euler", {"step": 0.3}),
    ("ddrm", 18, "", {}),
    ("ddrm", 180, "", {}),
    ("ddrm", 180, "", {"eta": 1.0}),
    ("diffpir", 180, "", {}),
    ("flow_dps", 180, "", {}),
    ("daps", 36, "", {}),
    ("daps", 180, "", {"ode_steps": 1}),
    ("red_diff", 180, "", {}),
    ("ddrm", 600, "", {"eta": 1.0}),
    ("daps", 600, "", {"ode_steps": 1}),
    ("repaint", 60, "", {}),
    ("diffpir", 600, "", {}),
)
"""(method, steps, sampler of methods that leave it open, options)."""


def judged(run: Any, factor: int = 2) -> Callable[[np.ndarray], dict[str, float]]:
    """What is said of samples, one for each held-out digit, in [-1, 1]."""
    data, small = run.experiment.dataset, Downsample(factor)
    x0 = np.asarray(centres(data.test.values, num_levels=data.num_levels))
    classify, levels = judge(data), data.num_levels

    def row(x: np.ndarray) -> dict[str, float]:
        gap = np.asarray(small(jnp.asarray(x)) - small(jnp.asarray(x0)))
        stored = np.clip(np.floor((x + 1) * levels / 2), 0, levels - 1)
        return {
            "small_picture": float(np.sqrt((gap**2).mean()) * levels / 2),
            "digit": float(np.sqrt(((x - x0) ** 2).mean()) * levels / 2),
            "class": float((classify(stored) == data.test.labels).mean()),
        }

    return row


def restored(
    run: Any,
    method: str,
    num_steps: int,
    sampler: str,
    options: dict[str, Any],
    *,
    factor: int = 2,
) -> tuple[np.ndarray, int]:
    """A sample for each held-out digit, and evaluations of the network for it."""
    experiment, small = run.experiment, Downsample(factor)
    data, model = experiment.dataset, experiment.model
    x0 = np.asarray(centres(data.test.values, num_levels=data.num_levels))
    y = np.asarray(small(jnp.asarray(x0)))
    sigmas = grids.karras(num_steps, sigma_min=0.002, sigma_max=80.0)
    if method in ("pseudo_inverse", "daps"):
        options = options | {"sigma_data": model.sigma_data}
    made = editing.restore_by(
        partial(METHODS[method], **options),
        *(denoiser(model, run.params), small, y),
        noise_std=0.0,
        grid=sigmas,
    )
    chosen = made.sampler or SAMPLERS[sampler]()
    start = sigmas[0] * jax.random.normal(jax.random.key(1), x0.shape, jnp.float32)

    @jax.jit
    def draw(start: Any) -> Any:
        out = sample(chosen, made.denoise, start, sigmas, key=jax.random.key(2))
        return editing.keep_measured(out.x, small, y), out.num_evals

    x, calls = draw(start)
    return np.asarray(x), int(calls) * int(network_evals(made.denoise, 1.0))


def table(run: Any) -> list[dict[str, Any]]:
    """A row of each of `ROWS`."""
    say, rows = judged(run), []
    for method, num_steps, sampler, options in ROWS:
        x, evals = restored(run, method, num_steps, sampler, options)
        named = ", ".join([method, *(f"{k} {v}" for k, v in options.items())])
        row = {"method": named, "steps": num_steps, "evaluations": evals, **say(x)}
        rows.append(row)
        print(
            f"{named:<28} {num_steps:>4} {evals:>5}  {row['small_picture']:.2f}  "
            f"{row['digit']:.2f}  {row['class']:.1%}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/digits"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    command = launch.parse("", [f"--workdir={arguments.run}"])
    run = open_run(arguments.run, command.config)
    about = {"step": run.step, "rows": table(run)}
    record.write(arguments.json, record.circumstances("flax") | about)


if __name__ == "__main__":
    main()
