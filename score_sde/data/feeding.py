"""Which examples are the batch of a step, and how they are read ahead.

The batch of step s is rows s b .. (s+1) b - 1 of an endless sequence: the examples in
an order drawn from (seed, epoch), epoch after epoch. Nothing else is remembered, so
that a run can start at any step, and any number of hosts can share a batch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from score_sde.data.dataset import Dataset, InMemory, Rows
from score_sde.types import UserError


def indices(num_examples: int, *, seed: int, start: int, stop: int) -> np.ndarray:
    """Find the examples at the positions start .. stop - 1 of the endless sequence.

    Args:
        num_examples: of the data set.
        seed: of the order.
        start: the first position.
        stop: the position after the last.
    """
    parts = []
    while start < stop:
        epoch, offset = divmod(start, num_examples)
        part = _order(seed, epoch, num_examples)[offset : offset + stop - start]
        parts.append(part)
        start += len(part)
    return np.concatenate(parts)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    sequence = np.random.SeedSequence((seed, epoch))
    return np.random.Generator(np.random.PCG64(sequence)).permutation(num_examples)


@dataclasses.dataclass(frozen=True)
class Batches:
    """A sequence whose element s is what one host reads of the batch of step s.

    Attributes:
        dataset: whose training split is read.
        seed: of the order.
        batch_size: examples of a step, of all hosts together.
        shard: number of this host.
        num_shards: number of hosts.
        first_step: the step of element 0.
    """

    dataset: Dataset
    seed: int
    batch_size: int
    shard: int = 0
    num_shards: int = 1
    first_step: int = 0

    def __len__(self) -> int:
        return sys.maxsize // self.batch_size

    def __getitem__(self, step: int) -> Rows:
        examples, size = self.dataset.train, self.batch_size
        begin = (self.first_step + step) * size
        start = begin + self.shard * size // self.num_shards
        stop = begin + (self.shard + 1) * size // self.num_shards
        return examples[indices(len(examples), seed=self.seed, start=start, stop=stop)]


def batch_at(dataset: Dataset, *, seed: int, step: int, batch_size: int) -> Rows:
    """Read the whole batch of a step: {"values": ..., "label": ... if there are any}.

    Args:
        dataset: whose training split is read.
        seed: of the order.
        step: number of the step.
        batch_size: examples of the batch.
    """
    return Batches(dataset, seed, batch_size)[step]


def batches(
    dataset: Dataset,
    *,
    seed: int,
    step: int,
    batch_size: int,
    shard: int = 0,
    num_shards: int = 1,
    workers: int = 0,
) -> Iterator[Rows]:
    """Read one host's share of the batches of steps step, step + 1, ..., endlessly.

    The share is rows shard b // num_shards .. (shard + 1) b // num_shards - 1 of
    `batch_at`.

    Args:
        dataset: whose training split is read.
        seed: of the order.
        step: the first step.
        batch_size: b, of all hosts together.
        shard: number of this host.
        num_shards: number of hosts.
        workers: processes that read and decode ahead, with grain; 0 reads here, when
            asked. Examples in memory are always read here, which is faster. A program
            that trains with workers must be importable (`if __name__ == "__main__"`).

    Raises:
        UserError: at once, if the data are not there, or not as they say, or too few
            for one batch.
    """
    num_examples = len(dataset.train)
    if num_examples < batch_size:
        raise UserError(
            f"data.batch_size is {batch_size}; {dataset.name} has {num_examples} "
            "training examples."
        )
    source = Batches(dataset, seed, batch_size, shard, num_shards, step)
    if not workers or isinstance(dataset.train, InMemory):
        return map(source.__getitem__, itertools.count())
    return _read_ahead(source, workers)


def _read_ahead(source: Batches, workers: int) -> Iterator[Rows]:
    """Read batches in other processes, each of which reads every workers-th of them."""
    try:
        import grain
    except ImportError:
        raise UserError(
            f"data.num_workers is {workers}, which needs grain: "
            "pip install 'score_sde[tfds]', or 0 workers."
        ) from None
    from absl import flags

    if not flags.FLAGS.is_parsed():  # which grain's workers ask for
        flags.FLAGS.mark_as_parsed()
    here = grain.ReadOptions(num_threads=0)
    iterator = iter(
        grain.MapDataset.source(source)
        .to_iter_dataset(here)
        .mp_prefetch(
            grain.MultiprocessingOptions(workers, per_worker_buffer_size=2),
            worker_init_fn=_start_worker,
        )
    )
    iterator.start_prefetch()
    return _closing(iterator)


def _closing(iterator: Any) -> Iterator[Rows]:
    """Yield what an iterator has, and end its processes when it is no longer used.

    The arrays are in memory that is shared with the processes, and are copied: a device
    may use an array after it has left.
    """
    try:
        for rows in iterator:
            yield {name: np.array(values) for name, values in rows.items()}
    finally:
        iterator.close()


def _start_worker(worker: int, workers: int) -> None:
    """Leave Ctrl-C to the program, which finishes its step, and never outlive it."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_program, daemon=True).start()


def _end_with_program() -> None:
    program = multiprocessing.parent_process()
    assert program is not None
    program.join()  # also if it was killed
    os._exit(1)
