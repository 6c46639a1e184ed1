"""What bfloat16 products do to training: the loss beside that in float32.

    python -m benchmarks.precision [--num_steps=500] [--json=FILE]

EDM's network, small, on the digits, with the same parameters, batches, noise and noise
levels. The loss of a step is that of one batch; means over WINDOW steps are compared,
and the loss of all held-out digits under the moving average at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from benchmarks.splits import all_rows
from experiments.launch import load_config
from score_sde.run.build import build
from score_sde.run.experiment import Experiment
from score_sde.run.model import training_points
from score_sde.run.sample import sample_keys
from score_sde.run.train import initial_params, make_loss, training_batches
from score_sde.runtime.mesh import make_mesh, put_batch, start_devices
from score_sde.training.compile import prepare_training

WINDOW = 50
NETWORK = {
    "name": "song_unet",
    "channels": 32,
    "multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_resolutions": (4,),
    "dropout": 0.0,
}


def experiment_in(dtype: str) -> Experiment:
    config = load_config("digits", Path())
    config["network"] = NETWORK | {"dtype": dtype}
    config["data"]["batch_size"] = 64
    return build(config)


def trained(dtype: str, num_steps: int) -> dict[str, Any]:
    """Losses of the steps, the held-out loss, and seconds per step."""
    experiment = experiment_in(dtype)
    mesh = make_mesh(experiment.devices)
    step, state = prepare_training(
        make_loss(experiment),
        initial_params(experiment),
        experiment.optimizer,
        experiment.train,
        experiment.devices,
        mesh,
        seed=experiment.seed,
    )
    losses, began = [], time.perf_counter()
    for number, rows in zip(
        range(num_steps), training_batches(experiment)(0), strict=False
    ):
        state, metrics = step(state, put_batch(rows, mesh))
        losses.append(metrics["loss"])
        if number == 0:
            jax.block_until_ready(metrics)
            began = time.perf_counter()
    losses = np.asarray(jax.device_get(losses), np.float64)
    seconds = (time.perf_counter() - began) / (num_steps - 1)
    rows = all_rows(experiment.dataset.test)
    # In float32, so that the parameters alone differ.
    exact = experiment_in("float32")

    @jax.jit
    def score(params: Any, keys: Any, values: Any) -> Any:
        x0 = training_points(exact.model, keys, params, values).x
        return exact.objective.loss_by_level(
            exact.model, params, keys, x0, None, num_levels=16
        )

    keys = sample_keys(experiment.seed, 0, len(rows["values"]))
    held_out = score(state.ema_params, keys, jnp.asarray(rows["values"]))
    return {
        "losses": losses,
        "held_out": float(np.asarray(held_out, np.float64).mean()),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_steps", type=int, default=500)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    start_devices()
    sides = {d: trained(d, given.num_steps) for d in ("float32", "bfloat16")}
    smooth = {
        name: side["losses"].reshape(-1, WINDOW).mean(1) for name, side in sides.items()
    }
    relative = np.abs(smooth["bfloat16"] / smooth["float32"] - 1)
    rows = {
        "num_steps": given.num_steps,
        "largest_relative_difference": float(relative.max()),
        "last_relative_difference": float(relative[-1]),
        "held_out": {name: side["held_out"] for name, side in sides.items()},
        "seconds_per_step": {name: side["seconds"] for name, side in sides.items()},
        "loss_float32": smooth["float32"].tolist(),
        "loss_bfloat16": smooth["bfloat16"].tolist(),
    }
    print(json.dumps(rows, indent=1))
    about = record.circumstances("flax", "optax")
    about["device"] = jax.devices()[0].device_kind
    record.write(given.json, about | rows)


if __name__ == "__main__":
    main()
