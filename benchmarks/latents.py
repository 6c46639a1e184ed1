r"""Latents against pixels at equal quality: what a sample costs, in one command.

    score-sde train --config=digits:autoencoder --workdir=runs/autoencoder
    score-sde encode --workdir=runs/autoencoder
    score-sde train --config=digits:latent --workdir=runs/latent
    score-sde train --config=digits --workdir=runs/digits
    python -m benchmarks.latents --pixel=runs/digits --latent=runs/latent [--json=FILE]

and the runs of `latents_fashion.json`, half an hour each on two cores:

    score-sde train --config=fashion_mnist:kl --workdir=runs/fashion_kl \
        --config.data.batch_size=32 --config.train.num_steps=3000 \
        --config.network.channels=16 --config.objective.discriminator_channels=16 \
        --config.objective.adversarial_start=1500 \
        --config.objective.adversarial_ramp=750 --config.optimizer.learning_rate=1e-3
    score-sde encode --workdir=runs/fashion_kl
    score-sde train --config=fashion_mnist --workdir=runs/fashion \
        --config.train.num_steps=1000
    score-sde train --config=fashion_mnist:latent --workdir=runs/fashion_latent \
        --config.train.num_steps=6180

The Frechet distance of samples to the training images, with its interval, in the
features of a classifier trained on them; operations of a sample, with the decoder, and
seconds. Beside them the floors: held-out images, and their reconstructions. Operations
of training are those of the diffusion; the autoencoder's are apart, since one serves
many runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import score_sde as ss
from benchmarks import record
from benchmarks.splits import all_rows
from score_sde.evaluation import frechet_distance
from score_sde.networks.flops import count_flops, forward_flops
from score_sde.run.extraction import open_features
from score_sde.run.open import AUTOENCODER, Run, open_run
from score_sde.run.reconstruction import reconstruct
from score_sde.run.sample import make_draw
from score_sde.run.train import training_cost
from score_sde.runtime.mesh import local_mesh
from score_sde.samplers.grids import GRIDS

MOST_RECONSTRUCTED = 10_000
"""Training images whose reconstructions are measured, of more."""
COLUMNS = ("steps", "evals", "mflop", "seconds", "fd", "low", "high", "bias")


def with_steps(run: Run, num_steps: int) -> Run:
    """The run with Karras et al.'s grid of as many steps."""
    sde = run.sde
    ends = {"sigma_min": sde.sigma(sde.t_min), "sigma_max": sde.sigma(sde.t_max)}
    grid = partial(GRIDS["karras"], num_steps, **ends)
    drawing = run.experiment.drawing._replace(grid=grid)
    return dataclasses.replace(run, experiment=run.experiment._replace(drawing=drawing))


def sample_flops(run: Run, evals: float) -> dict[str, float]:
    """Operations of one sample: of the network's evaluations, and of decoding."""
    model = run.experiment.model
    one = forward_flops(model.network, run.params["network"], model.shape)
    x = jax.ShapeDtypeStruct((1, *model.shape), jnp.float32)
    decoding = count_flops(lambda x: model.render(run.params, x, None), x)
    return {"network": evals * one, "decoder": float(decoding)}


def drawn(run: Run, count: int) -> tuple[np.ndarray, float, float]:
    """(samples as stored images, evaluations, seconds for each without compiling)."""
    size, draw = make_draw(run.experiment, local_mesh(), run.companions.offers)
    draw(run.params, 0)  # compiles
    start, parts = time.monotonic(), []
    for first in range(0, count, size):
        parts.append(draw(run.params, first))
    seconds = (time.monotonic() - start) / (len(parts) * size)
    levels = np.concatenate([part["levels"] for part in parts])[:count]
    good = np.concatenate([part["success"] for part in parts])[:count]
    return levels[good], float(parts[0]["num_evals"].mean()), seconds


def training_flops(run: Run) -> float:
    """Operations of all that the run was trained for."""
    experiment = run.experiment
    own = {k: v for k, v in run.params.items() if k != "companions"}
    loaded = run.companions
    cost = training_cost(experiment, own, loaded.params, loaded.offers)
    return 3.0 * cost.flops * experiment.data.batch_size * run.step


def distance_row(name: str, real: Any, fake: Any, **known: float) -> dict[str, Any]:
    """A row of the table."""
    found = frechet_distance(real, fake)
    return {
        "name": name,
        **known,
        "fd": found.value,
        "low": found.low,
        "high": found.high,
        "bias": found.parts.get("bias"),
        "samples": len(fake),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each row."""

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.4g}"

    head = "| | steps | evaluations | MFLOP | s | FD | low | high | bias |"
    lines = [head, "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        cells = " | ".join(cell(row.get(column)) for column in COLUMNS)
        lines.append(f"| {row['name']} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixel", type=Path, default=Path("runs/digits"))
    parser.add_argument("--latent", type=Path, nargs="+", default=[Path("runs/latent")])
    parser.add_argument("--num_samples", type=int, default=1_000)
    parser.add_argument("--steps", default="18,9,5")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    runs = {"pixels": ss.open_run(given.pixel)}
    for folder in given.latent:
        latent = ss.open_run(folder)
        channels = latent.config["network"]["channels"]
        runs[f"latents, {channels} channels"] = latent
    where = latent.experiment.companions["autoencoder"]
    autoencoder = open_run(where.run, step=where.step, needs=AUTOENCODER)
    extraction = open_features(runs["pixels"].experiment, runs["pixels"].config)
    images = runs["pixels"].dataset
    real, held_out = (
        all_rows(split)["values"] for split in (images.train, images.test)
    )
    features = extraction.features
    known = features(real)
    rows = [
        distance_row("held-out images", known, features(held_out)),
        distance_row(
            "held-out images, reconstructed",
            known,
            features(reconstruct(autoencoder, held_out)),
        ),
        distance_row(
            "training images, reconstructed",
            known,
            features(reconstruct(autoencoder, real[:MOST_RECONSTRUCTED])),
        ),
    ]
    latents = " ".join(f"runs/{folder.name}" for folder in given.latent)
    result = record.circumstances("flax") | {
        "command": f"python -m benchmarks.latents --pixel=runs/{given.pixel.name} "
        f"--latent {latents} --num_samples={given.num_samples} --steps={given.steps}",
        "features": extraction.identity,
        "training_flops": {name: training_flops(run) for name, run in runs.items()}
        | {"autoencoder": training_flops(autoencoder)},
        "steps_trained": {name: run.step for name, run in runs.items()}
        | {"autoencoder": autoencoder.step},
    }
    for num_steps in map(int, given.steps.split(",")):
        for name, run in runs.items():
            samples, evals, seconds = drawn(
                with_steps(run, num_steps), given.num_samples
            )
            flops = sample_flops(run, evals)
            row = distance_row(
                name,
                known,
                features(samples),
                steps=num_steps,
                evals=evals,
                mflop=sum(flops.values()) / 1e6,
                decoder_mflop=flops["decoder"] / 1e6,
                seconds=seconds,
            )
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
            record.write(given.json, result | {"rows": rows})
    print(json.dumps(result["training_flops"]))
    print(table(rows))


if __name__ == "__main__":
    main()
