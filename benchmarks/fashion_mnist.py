"""Bits/dim of a trained run on held-out Fashion-MNIST, in a random order.

On one core, an hour (fashion_mnist.json):

    taskset -c 0 score-sde train --config=fashion_mnist:vdm --workdir=runs/fashion \
        --config.data.batch_size=32 --config.train.num_steps=6300
    python -m benchmarks.fashion_mnist runs/fashion --count=1000

An older record, fashion_mnist_h100.json, is of a larger network with waves that don't
fit the grey levels; its command is in it.

Test images in a random order, the same for every count; the probability flow by
`multistep` with a number of steps that is given: with 128, 25 images are off by 0.02
bits, root mean square, and their mean by -0.0003. `score-sde likelihood` scores all
10,000, with a budget of errors and the bound.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import score_sde as ss
from benchmarks import record
from score_sde.networks import count_parameters
from score_sde.run.likelihoods import bound_examples
from score_sde.run.open import Run, open_run
from score_sde.run.sample import sample_keys


def held_out(run: Run, count: int, batch: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of the first, and the rows, of each batch of so many test images."""
    test = run.dataset.test
    chosen = np.random.RandomState(0).permutation(len(test))[:count]
    for first in range(0, count, batch):
        yield first, test[chosen[first : first + batch]]


def scored(
    workdir: Path, count: int, batch: int, num_steps: int
) -> dict[str, float | int]:
    """Mean bits/dim of some test images, and its standard error."""
    config = json.loads((workdir / "config.json").read_text())
    config["likelihood"] |= {"solver": "multistep", "num_steps": num_steps}
    run = open_run(workdir, config)
    bits: list[float] = []
    evals = 0
    for first, rows in held_out(run, count, batch):
        found = run.log_prob(rows, first=first)
        each = ss.bits_per_dim(
            found.nats, math.prod(run.dataset.shape), num_levels=None
        )
        bits += np.asarray(each).tolist()
        evals = int(np.max(found.num_evals))
        mean, error = ss.mean_and_error(np.asarray(bits))
        print(f"{len(bits):>6} images: {mean:.4f} +- {error:.4f} bits/dim", flush=True)
    return {
        "images": len(bits),
        "bits_per_dim": round(float(mean), 4),
        "standard_error": round(float(error), 4),
        "evaluations": evals,
    }


def bound(workdir: Path, count: int, batch: int) -> dict[str, float]:
    """Mean variational bound of the same images in bits/dim, and its standard error."""
    run = open_run(workdir)
    model, settings = run.experiment.model, run.experiment.likelihood
    of_batch = jax.jit(partial(bound_examples, model, settings, of_chain=False))
    nats: list[float] = []
    for first, rows in held_out(run, count, batch):
        keys = (sample_keys(seed, first, len(rows["values"])) for seed in (1, 2))
        found = of_batch(run.params, *keys, rows["values"], None)
        nats += np.asarray(found.nats).tolist()
    each = np.asarray(nats) / (math.prod(run.dataset.shape) * math.log(2))
    mean, error = ss.mean_and_error(each)
    return {
        "bound": round(float(mean), 4),
        "bound_standard_error": round(float(error), 4),
    }


def trained(workdir: Path) -> dict[str, Any]:
    """What a run says of its training."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    steps = np.diff([0, *(row["step"] for row in rows)])
    pace = np.asarray([row["seconds_per_step"] for row in rows])
    params = ss.open_run(workdir).params["network"]
    return {
        "steps": rows[-1]["step"],
        "batch_size": json.loads((workdir / "config.json").read_text())["data"][
            "batch_size"
        ],
        "seconds_in_steps": round(float(steps @ pace)),
        "parameters": count_parameters(params),
        "test_loss": rows[-1]["test_loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--num_steps", type=int, default=128)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = record.circumstances("flax") | {
        "trained": trained(given.workdir),
        "scored": scored(given.workdir, given.count, given.batch, given.num_steps)
        | bound(given.workdir, given.count, given.batch),
    }
    record.write(given.json, result)


if __name__ == "__main__":
    main()
