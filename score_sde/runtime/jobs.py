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
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from score_sde.runtime.folder import Arrays, save_arrays, write_json
from score_sde.runtime.mesh import DATA_AXIS, is_main_host, wait_for_hosts
from score_sde.runtime.preemption import stop_if_requested
from score_sde.runtime.progress import Progress

EVERYWHERE, BY_EXAMPLE = PartitionSpec(), PartitionSpec(DATA_AXIS)
"""Partition specs: whole on every device; split over devices by example."""


def compute_in_parts(
    path: Path,
    *,
    count: int,
    size: int,
    compute: Callable[[int], Arrays],
    what: str | None = None,
) -> Arrays:
    """Compute arrays of `count` examples, batch by batch, or read what is done.

    Args:
        path: how the names of the files of the batches begin.
        count: of examples.
        size: of a batch.
        compute: first -> the arrays [size, ...] of examples first, first + 1, ...,
            called for the batches of this host that have no file yet.
        what: what the bar says is computed; the name of the files if None, and "" for
            no bar, where `compute` shows its own.

    Raises:
        Stopped: between two batches, if a signal asks for it.
    """
    files = [
        path.with_name(f"{path.name}_{number:06d}.npz")
        for number in range(-(-count // size))
    ]
    own = batches_of(len(files), jax.process_index(), jax.process_count())
    progress = Progress(path.name if what is None else what, len(own))
    for place, number in enumerate(own, start=1):
        stop_if_requested(
            f"stopped; {number} of {len(files)} parts of {path.name} are done, and the "
            "same command goes on from there."
        )
        if not files[number].exists():
            first = number * size
            arrays = {n: a[: count - first] for n, a in compute(first).items()}
            save_arrays(files[number], arrays)
            if is_main_host() and what != "":
                progress.part_done(place)
    wait_for_hosts(str(path))
    parts = []
    for file in files:
        with np.load(file) as part:
            parts.append(dict(part))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def batches_of(num_batches: int, host: int, num_hosts: int) -> range:
    """The batches that a host computes: each batch is one host's."""
    return range(host, num_batches, num_hosts)


def parts_folder(folder: Path, made_by: dict[str, Any]) -> Path:
    """The folder for the parts of a job, emptied if another job left them.

    Args:
        folder: of this kind of job.
        made_by: all that the result depends on, as JSON holds it or can.
    """
    label, made_by = folder / "made_by.json", json.loads(json.dumps(made_by))
    if is_main_host() and not (
        label.exists() and json.loads(label.read_text()) == made_by
    ):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(label, made_by)
    wait_for_hosts(str(folder))
    return folder


def map_examples(
    function: Callable[..., Any], mesh: Mesh, *specs: PartitionSpec
) -> Any:
    """Compile a function so that each device works on its own share of the batch.

    No collective is in a solver, where devices may take different numbers of steps.

    Args:
        function: of arrays, whose results lead with the batch.
        mesh: the devices.
        specs: of its arguments; the results are split by example.
    """
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=BY_EXAMPLE, check_vma=False
        )
    )
