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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from score_sde.experiment import Experiment
from score_sde.inference import draw_samples, sample_keys
from score_sde.objective import batch_loss
from score_sde.training.mesh import DATA_AXIS, divisible
from score_sde.training.preemption import stop_if_requested
from score_sde.training.run import write_json
from score_sde.types import Array

EVERYWHERE, ROW = PartitionSpec(), PartitionSpec(DATA_AXIS)
"""Of an argument that every device has whole, and of one that is cut over them."""

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
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(str(path))
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
    if not label.exists() or json.loads(label.read_text()) != made_by:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(label, made_by)
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

    The fields of `Samples`, and `labels` of a conditional network: those of
    `sampling.labels`, or 0, 1, ..., over and over.
    """
    classes = experiment.sampling.labels or range(experiment.num_classes)
    size = divisible(experiment.sampling.batch_size, mesh)
    compiled = by_shares(partial(draw_samples, experiment), mesh, EVERYWHERE, ROW, ROW)

    def draw(params: Params, first: int) -> Arrays:
        labels = None
        if experiment.num_classes:
            index = np.arange(first, first + size, dtype=np.int32)
            labels = np.asarray(classes, np.int32)[index % len(classes)]
        keys = sample_keys(experiment.seed, first, size)
        arrays = jax.device_get(compiled(params, keys, labels))._asdict()
        return arrays if labels is None else arrays | {"labels": labels}

    return size, draw


def memory_estimate(experiment: Experiment, params: Params) -> tuple[int, int]:
    """Bytes of the training state, and of what the loss of a batch keeps for backward.

    From shapes alone: the state is parameters, average, gradient and two moments; the
    second is an upper bound, which the compiler undercuts by recomputing cheap parts.
    """
    batch = {
        "values": jax.ShapeDtypeStruct(
            (experiment.data.batch_size, *experiment.dataset.shape),
            np.uint8 if experiment.dataset.num_levels else np.float32,
        )
    }
    if experiment.num_classes:
        shape = (experiment.data.batch_size,)
        batch["label"] = jax.ShapeDtypeStruct(shape, np.int32)

    def kept(params: Params, batch: dict[str, Array]) -> Any:
        key = jax.random.key(0)
        return jax.vjp(lambda p: batch_loss(experiment, key, p, batch).mean(), params)[
            1
        ]

    state = 5 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    residuals = jax.tree.leaves(jax.eval_shape(kept, params, batch))
    return state, sum(leaf.size * leaf.dtype.itemsize for leaf in residuals)
