"""Long jobs over all devices: many samples.

A job is cut into batches of one size, so that one program is compiled; the last one is
padded and the padding dropped. Example i is a function of (seed, i), whatever the size
of the batches and the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from score_sde.experiment import Experiment, draw_samples, sample_keys
from score_sde.training.mesh import batch_sharding, divisible, replicated
from score_sde.types import Array

Params = Any
Draw = Callable[[Params, int], tuple[np.ndarray, np.ndarray | None]]


def make_draw(experiment: Experiment, mesh: Mesh) -> Draw:
    """draw(params, count) -> (levels, labels): the first `count` samples.

    Labels of a conditional network are 0, 1, ..., over and over.
    """
    size = divisible(experiment.sampling.batch_size, mesh)
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
