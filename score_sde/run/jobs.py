"""Long jobs over all devices, batch by batch, each batch kept in a file.

All batches have one size, so that one program is compiled; the last one is padded and
the padding dropped. A job that was interrupted goes on where it ended. With several
hosts, and a folder that all of them see, each takes every n-th batch. Example i is a
function of (seed, i), whatever the size of the batches and the number of devices and
hosts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from score_sde import conditions
from score_sde.data import batches
from score_sde.data.dataset import Rows
from score_sde.evaluation.plots import save_losses, save_samples
from score_sde.guidance import GUIDANCES
from score_sde.networks.flops import flops_of
from score_sde.run.inference import draw_samples, sample_keys
from score_sde.run.model import Experiment
from score_sde.run.objective import batch_loss, loss_by_level, middle_levels
from score_sde.runtime.folder import write_json
from score_sde.runtime.mesh import (
    DATA_AXIS,
    divisible,
    is_main_host,
    local_mesh,
    to_host,
    wait_for_hosts,
)
from score_sde.runtime.preemption import stop_if_requested
from score_sde.training.step import TrainState
from score_sde.types import Array

EVERYWHERE, ROW = PartitionSpec(), PartitionSpec(DATA_AXIS)
"""Of an argument that every device has whole, and of one that is cut over them."""

EVALUATED, NUM_LEVELS = 128, 12
"""Held-out examples whose loss is followed in training, at how many noise levels."""

Params = Any
Arrays = dict[str, np.ndarray]


def in_parts(
    path: Path, *, count: int, size: int, compute: Callable[[int], Arrays]
) -> Arrays:
    """Arrays of `count` examples, from batches that are files which begin like path.

    Args: `compute(first)`, the arrays [size, ...] of examples first, first + 1, ...,
    called for the batches of this host that have no file yet.
    """
    files = [
        path.with_name(f"{path.name}_{number:06d}.npz")
        for number in range(-(-count // size))
    ]
    for number in batches_of(len(files), jax.process_index(), jax.process_count()):
        stop_if_requested(
            f"stopped; {number} of {len(files)} parts of {path.name} are done, and the "
            "same command goes on from there."
        )
        if not files[number].exists():
            first = number * size
            arrays = {n: a[: count - first] for n, a in compute(first).items()}
            _save(files[number], arrays)
    wait_for_hosts(str(path))
    parts = []
    for file in files:
        with np.load(file) as part:
            parts.append(dict(part))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def batches_of(num_batches: int, host: int, num_hosts: int) -> range:
    """The batches that a host computes: each batch is one host's."""
    return range(host, num_batches, num_hosts)


def _save(path: Path, arrays: Arrays) -> None:
    """Whole or not at all."""
    partial_path = path.with_name(f".{path.name}")
    with partial_path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    partial_path.rename(path)


def parts_of(folder: Path, made_by: dict[str, Any]) -> Path:
    """The folder for the parts of a job, emptied if another one left them."""
    label = folder / "made_by.json"
    if is_main_host() and not (
        label.exists() and json.loads(label.read_text()) == made_by
    ):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(label, made_by)
    wait_for_hosts(str(folder))
    return folder


def by_shares(function: Callable[..., Any], mesh: Mesh, *specs: PartitionSpec) -> Any:
    """Compiled so that each device works on its share of the batch by itself.

    No collective is in a solver, where devices may take different numbers of steps.
    Args: `specs` of the arguments; the results are cut like the batch.
    """
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=ROW, check_vma=False
        )
    )


def make_draw(
    experiment: Experiment, mesh: Mesh
) -> tuple[int, Callable[[Params, int], Arrays]]:
    """(size, draw): draw(params, first) gives samples first, first + 1, ... by size.

    The fields of `Samples`, and what each was told of its condition: `labels`,
    `words`, `vectors`, `images`.
    """
    size = divisible(experiment.sampling.batch_size, mesh)
    compiled = by_shares(partial(draw_samples, experiment), mesh, EVERYWHERE, ROW, ROW)

    def draw(params: Params, first: int) -> Arrays:
        index = np.arange(first, first + size)
        cond = conditions.of_samples(experiment.conditions, experiment.dataset, index)
        keys = sample_keys(experiment.seed, first, size)
        arrays = jax.device_get(compiled(params, keys, cond))._asdict()
        told = {f"{name.removesuffix('s')}s": a for name, a in (cond or {}).items()}
        return arrays | told

    return size, draw


def training_batches(experiment: Experiment) -> Callable[[int], Iterator[Rows]]:
    """batches(step): what this host reads of the batches from that step on."""
    return lambda step: batches(
        experiment.dataset,
        seed=experiment.seed,
        step=step,
        batch_size=experiment.data.batch_size,
        shard=jax.process_index(),
        num_shards=jax.process_count(),
        workers=experiment.data.num_workers,
    )


class Cost(NamedTuple):
    """What training takes, as `training_cost` finds it."""

    flops: int
    """Of the network and all else that is trained, for one example, forwards."""
    state_bytes: int
    """Parameters, average, gradient and two moments."""
    kept_bytes: int
    """What the loss of a batch keeps for the backward pass, at most: the compiler
    undercuts it by computing cheap parts again."""


def training_cost(experiment: Experiment, params: Params) -> Cost:
    """From shapes alone: nothing is compiled or run."""
    size = experiment.data.batch_size
    values = (size, *experiment.dataset.shape)
    kind = np.uint8 if experiment.dataset.num_levels else np.float32
    batch = {"values": jax.ShapeDtypeStruct(values, kind)}
    if experiment.dataset.num_classes:
        batch["label"] = jax.ShapeDtypeStruct((size,), np.int32)

    def forwards(params: Params, batch: dict[str, Array]) -> Any:
        key = jax.random.key(0)
        _, backwards = jax.vjp(
            lambda p: batch_loss(experiment, key, p, batch).mean(), params
        )
        return backwards

    program = jax.make_jaxpr(forwards)(params, batch)
    state = jax.tree.leaves(params)
    return Cost(
        flops_of(program.jaxpr) // size, 5 * _bytes(state), _bytes(program.out_avals)
    )


def _bytes(arrays: Sequence[Any]) -> int:
    return sum(a.size * a.dtype.itemsize for a in arrays)


def make_evaluate(
    experiment: Experiment, workdir: Path, mesh: Mesh
) -> Callable[[TrainState], dict[str, float]]:
    """What training looks at now and then: samples, and the loss of held-out examples.

    A picture of each goes to workdir/samples; the mean loss is returned. Every host
    must call it, the first does the work.
    """
    here = local_mesh()
    # The model by itself: guidance may need another one.
    _, draw = make_draw(experiment._replace(guidance=GUIDANCES["none"]), here)
    count = divisible(min(EVALUATED, len(experiment.dataset.test)), here)
    losses = by_shares(
        partial(loss_by_level, experiment, num_levels=NUM_LEVELS),
        here,
        *(EVERYWHERE, ROW, ROW, ROW),
    )

    def evaluate(state: TrainState) -> dict[str, float]:
        params = to_host(state.ema_params, mesh)
        if not is_main_host():
            return {}
        path = workdir / "samples" / f"step_{int(state.step):07d}.png"
        levels = draw(params, 0)["levels"]
        save_samples(path, levels, num_levels=experiment.dataset.num_levels)
        held_out = experiment.dataset.test
        batch = held_out[np.arange(count) % len(held_out)]
        cond = conditions.of_examples(experiment.conditions, batch)
        keys = sample_keys(experiment.seed, 0, count)
        found = losses(params, keys, batch["values"], cond)
        by_level = np.asarray(found).mean(0)
        sigmas = np.asarray(middle_levels(experiment, NUM_LEVELS))
        save_losses(path.with_name(f"loss_{int(state.step):07d}.png"), sigmas, by_level)
        return {"test_loss": float(by_level.mean())}

    return evaluate
