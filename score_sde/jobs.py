"""Long jobs over all devices: many samples, many log-likelihoods.

A job is cut into batches of one size, so that one program is compiled; the last one is
padded and the padding dropped. Example i is a function of (seed, i), whatever the size
of the batches and the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from score_sde.experiment import (
    Experiment,
    draw_samples,
    sample_keys,
    score_examples,
)
from score_sde.training.mesh import DATA_AXIS, batch_sharding, replicated
from score_sde.types import Array

Params = Any
Draw = Callable[[Params, int], tuple[np.ndarray, np.ndarray | None]]


def make_draw(experiment: Experiment, mesh: Mesh) -> Draw:
    """draw(params, count) -> (levels, labels): the first `count` samples.

    Labels of a conditional network are 0, 1, ..., over and over.
    """
    size = _divisible(experiment.sampling.batch_size, mesh)
    shard, everywhere = batch_sharding(mesh), replicated(mesh)
    compiled = jax.jit(
        partial(draw_samples, experiment),
        in_shardings=(everywhere, shard, shard),
        out_shardings=shard,
    )

    def draw(params: Params, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        parts = []
        for first in range(0, count, size):
            keys = sample_keys(experiment.seed, first, size)
            labels = _labels(experiment, first, size)
            parts.append(np.asarray(compiled(params, keys, labels)))
        return np.concatenate(parts)[:count], _labels(experiment, 0, count)

    return draw


def _labels(experiment: Experiment, first: int, count: int) -> np.ndarray | None:
    if not experiment.num_classes:
        return None
    return np.arange(first, first + count, dtype=np.int32) % experiment.num_classes


def score_all(
    experiment: Experiment,
    params: Params,
    values: np.ndarray,
    labels: np.ndarray | None,
    mesh: Mesh,
) -> Iterator[dict[str, np.ndarray]]:
    """The fields of LogProb of every example exactly once, batch after batch.

    Each device solves for its share by itself: no collective is inside the solver.
    """
    size = _divisible(experiment.likelihood.batch_size, mesh)
    if not experiment.num_classes:
        labels = None
    row = PartitionSpec(DATA_AXIS)
    compiled = jax.jit(
        jax.shard_map(
            partial(score_examples, experiment),
            mesh=mesh,
            in_specs=(PartitionSpec(), row, row, row),
            out_specs=row,
            check_vma=False,
        )
    )
    for first in range(0, len(values), size):
        # Past the end the first examples are repeated, and dropped from the result.
        index = np.arange(first, first + size) % len(values)
        result = compiled(
            params,
            sample_keys(experiment.seed, first, size),
            values[index],
            None if labels is None else labels[index],
        )
        count = min(size, len(values) - first)
        yield {name: np.asarray(a)[:count] for name, a in result._asdict().items()}


def _divisible(batch_size: int, mesh: Mesh) -> int:
    """The batch size, rounded up to a multiple of the number of devices."""
    return -(-batch_size // mesh.devices.size) * mesh.devices.size


def memory_estimate(experiment: Experiment, params: Params) -> tuple[int, int]:
    """Bytes of the training state, and of what the loss of a batch keeps for backward.

    From shapes alone: the state is parameters, average, gradient and two moments; the
    second is an upper bound, which the compiler undercuts by recomputing cheap parts.
    """
    from score_sde.experiment import batch_loss

    batch = {
        "values": jax.ShapeDtypeStruct(
            (experiment.data.batch_size, *experiment.dataset.shape),
            experiment.dataset.train.dtype,
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
