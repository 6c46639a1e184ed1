"""What training costs beside its steps: checkpoints, starting, and the loop itself.

    taskset -c 1 python -m benchmarks.training [--json=FILE]

save        how long training stands still to save, over saving while it waits
restore     restoring with checksums compared, over restoring without
warm start  compiling the step of digits.py with nothing in the cache, over doing so
            with all in it, in programs of their own
loop        seconds per step of `train`, over those of the compiled step alone on a
            batch that is there: for digits.py, and for patches.py with few steps

Medians, all in one run. Whether they are good enough is for a person to judge: on a
machine that does other things they are not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import record
from experiments.launch import load_config
from score_sde.run.build import build
from score_sde.run.train import initial_params, make_loss, training_batches
from score_sde.runtime.mesh import (
    Devices,
    make_mesh,
    put_batch,
    put_state,
    start_devices,
)
from score_sde.training import checkpoints as saving
from score_sde.training.compile import prepare_training
from score_sde.training.loop import train
from score_sde.training.retention import Retention
from score_sde.training.settings import Training
from score_sde.training.step import init_state

REPEATS = 7


def seconds_of(function: Callable[[], Any]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def checkpoint_rows(folder: Path) -> dict[str, float]:
    """Of a state of 100 MB: 6.25 million parameters, their average, two moments."""
    random = np.random.RandomState(0)
    params = {
        f"layer_{i}": {"kernel": random.normal(size=(250, 250)).astype(np.float32)}
        for i in range(100)
    }
    mesh = make_mesh(Devices())
    state = put_state(init_state(params, optax.adam(1e-3)), mesh)
    stall, whole, verified, unverified = [], [], [], []
    retention = Retention(newest=1)
    with saving.Checkpoints(folder, retention=retention) as checkpoints:
        for step in range(2 * REPEATS + 1):
            state = state._replace(step=put_state(jnp.asarray(step), mesh))
            checkpoints.wait()
            took = seconds_of(partial(checkpoints.save, state))
            rest = seconds_of(checkpoints.wait)
            if step:  # the first writes what it needs once
                stall.append(took)
                whole.append(took + rest)
        for _ in range(REPEATS):
            verified.append(seconds_of(lambda: checkpoints.restore(state)))
            with mock.patch.object(saving, "checksums", return_value={}):
                unverified.append(seconds_of(lambda: checkpoints.restore(state)))
    return {
        "megabytes": round(sum(a.nbytes for a in jax.tree.leaves(state)) / 1e6, 1),
        "save_stall_seconds": statistics.median(stall),
        "save_seconds": statistics.median(whole),
        "save_stall_share": statistics.median(stall) / statistics.median(whole),
        "restore_seconds": statistics.median(unverified),
        "restore_ratio": statistics.median(verified) / statistics.median(unverified),
    }


START = """
import time
from benchmarks.training import prepared
from score_sde.runtime.mesh import put_batch, start_devices
start_devices()
step, state, batch, mesh = prepared("configs/digits.py")
began = time.perf_counter()
step(state, put_batch(batch, mesh))[1]["loss"].block_until_ready()
print(time.perf_counter() - began)
"""


def start_rows(folder: Path) -> dict[str, float]:
    """The first step in a program of its own, without and with compiled programs."""

    def start() -> float:
        said = subprocess.run(
            [sys.executable, "-c", START],
            env=os.environ | {"XDG_CACHE_HOME": str(folder)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return float(said.split()[-1])

    cold, warm = start(), statistics.median(start() for _ in range(3))
    return {
        "cold_start_seconds": cold,
        "warm_start_seconds": warm,
        "warm_start_ratio": cold / warm,
    }


def prepared(config: str) -> tuple[Any, Any, Any, jax.sharding.Mesh]:
    """(compiled step, state, a batch, mesh) of a config."""
    experiment = build(load_config(config, Path()))
    devices, settings = experiment.devices, experiment.train
    mesh = make_mesh(devices)
    step, state = prepare_training(
        make_loss(experiment),
        initial_params(experiment),
        experiment.optimizer,
        settings,
        devices,
        mesh,
        seed=experiment.seed,
    )
    batch = next(training_batches(experiment)(0))
    return step, state, batch, mesh


def loop_row(config: str, num_steps: int) -> float:
    """Seconds per step in `train`, over those of the step alone, in turns."""
    step, state, batch, mesh = prepared(config)
    experiment = build(load_config(config, Path()))
    placed = put_batch(batch, mesh)
    host = jax.tree.map(np.array, jax.device_get(state))
    settings = Training(num_steps=num_steps, log_every=experiment.train.log_every)

    def alone() -> float:
        now = put_state(host, mesh)
        now, metrics = step(now, placed)
        jax.block_until_ready(metrics)
        began = time.perf_counter()
        for _ in range(num_steps - 1):
            now, metrics = step(now, placed)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - began) / (num_steps - 1)

    def in_loop() -> float:
        times: list[float] = []

        def timed(now: Any, batch: Any) -> Any:
            out = step(now, batch)
            if not times:
                jax.block_until_ready(out)
            times.append(time.perf_counter())
            return out

        def evaluate(now: Any) -> dict[str, float]:
            jax.block_until_ready(now)
            times.append(time.perf_counter())
            return {}

        with tempfile.TemporaryDirectory() as workdir, _silent():
            train(
                put_state(host, mesh),
                timed,
                training_batches(experiment),
                settings=settings,
                mesh=mesh,
                workdir=Path(workdir),
                evaluate=evaluate,
            )
        return (times[-1] - times[0]) / (num_steps - 1)

    ratios = [in_loop() / alone() for _ in range(REPEATS)]
    return statistics.median(ratios)


@contextlib.contextmanager
def _silent() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    start_devices()
    with tempfile.TemporaryDirectory() as folder:
        rows = start_rows(Path(folder) / "cache")
        rows |= checkpoint_rows(Path(folder) / "checkpoints")
    rows["loop_digits"] = loop_row("configs/digits.py", 200)
    rows["loop_patches"] = loop_row("configs/patches.py", 12)
    rows = {name: round(value, 4) for name, value in rows.items()}
    for name, value in rows.items():
        print(f"{name:<22} {value:.4g}")
    record.write(given.json, record.circumstances("orbax-checkpoint") | rows)


if __name__ == "__main__":
    main()
