"""What a step of training a few-step model costs, beside one of plain training.

    python -m benchmarks.students runs/digits [--json=FILE] [--methods=progressive,...]

Each method of configs/digits.py that distils or tunes a run, with the run's network,
batch and a fresh optimiser; plain training is denoising by the run's own config. In
turns of a few steps, medians of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import record
from benchmarks.turns import in_turns
from experiments.distil import combined
from experiments.launch import load_config
from score_sde.run import companions
from score_sde.run.build import build
from score_sde.run.sections import complete
from score_sde.run.train import (
    initial_params,
    make_loss,
    training_batches,
    with_prepared,
)
from score_sde.runtime.folder import read_config
from score_sde.runtime.mesh import make_mesh, put_batch, start_devices
from score_sde.training.compile import prepare_training

METHODS = (
    "progressive",
    "tuning",
    "consistency",
    "continuous",
    "mean_flow",
    "flow_map",
)
STEPS = 5
"""How many steps are timed at once."""


def steps_of(config: Any) -> Callable[[], None]:
    """A function that trains for `STEPS` steps, of a config that is complete."""
    experiment = build(config)
    mesh = make_mesh(experiment.devices, batch_size=experiment.data.batch_size)
    loaded = companions.load(experiment, experiment.training_roles)
    params = initial_params(experiment, loaded.params)
    step, first = prepare_training(
        make_loss(experiment, loaded.offers),
        params,
        experiment.optimizer,
        experiment.train,
        experiment.devices,
        mesh,
        seed=experiment.seed,
        companions=with_prepared(experiment, params, loaded.params, loaded.offers),
        target_decay=experiment.objective.target_decay(experiment.train.num_steps),
        groups=experiment.objective.optimizers(experiment.optimizer),
    )
    batch = put_batch(next(training_batches(experiment)(0)), mesh)
    held = {"state": first}  # a step gives the memory of the state to the next one

    def run() -> None:
        for _ in range(STEPS):
            held["state"], metrics = step(held["state"], batch)
        jax.block_until_ready(metrics)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeat", type=int, default=11)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    start_devices()
    plain = complete(read_config(given.run))
    sides = {"plain": steps_of(plain)}
    for method in given.methods.split(","):
        config = load_config(f"digits:{method}", Path())
        student = combined(ConfigDict(config), {"from": str(given.run)})
        sides[method] = steps_of(student.to_dict())
    seconds = in_turns(sides, given.repeat)
    rows = []
    for method, took in seconds.items():
        ratios = np.divide(took, seconds["plain"])
        rows.append(
            {
                "method": method,
                "milliseconds": 1e3 * statistics.median(took) / STEPS,
                "ratio": statistics.median(ratios),
            }
        )
        print(
            f"{method:<12} {rows[-1]['milliseconds']:7.1f} ms {rows[-1]['ratio']:.2f}"
        )
    about = {"batch": plain["data"]["batch_size"], "rows": rows}
    record.write(given.json, record.circumstances("flax", "optax") | about)


if __name__ == "__main__":
    main()
