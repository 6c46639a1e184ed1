"""The training loop: fold the step over the batches, report, save, resume."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from score_sde.training.checkpoints import Checkpoints
from score_sde.training.mesh import put_batch
from score_sde.training.metrics import Metrics
from score_sde.training.post_hoc_ema import Profile, save_snapshot
from score_sde.training.preemption import Stopped, requested
from score_sde.training.step import Batch, TrainState
from score_sde.types import require


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of the loop.

    max_skipped: updates in a row whose loss or gradient is not finite, and which are
        therefore left out, before training gives up.
    power_ema_stds: relative widths of averages that are stored every snapshot_every
        steps, from which `experiments.reconstruct_ema` makes those of other widths.
    """

    num_steps: int
    ema_halflife_steps: float = 500.0
    ema_rampup_ratio: float = 0.05
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    max_skipped: int = 10
    power_ema_stds: tuple[float, ...] = ()
    snapshot_every: int = 1000

    def __post_init__(self) -> None:
        require(
            self,
            ("1 <= num_steps", lambda t: t.num_steps >= 1),
            (
                "0 < ema_halflife_steps",
                lambda t: 0 < t.ema_halflife_steps < math.inf,
            ),
            ("0 < ema_rampup_ratio", lambda t: t.ema_rampup_ratio > 0),
            ("1 <= log_every", lambda t: t.log_every >= 1),
            ("1 <= sample_every", lambda t: t.sample_every >= 1),
            ("1 <= checkpoint_every", lambda t: t.checkpoint_every >= 1),
            ("1 <= keep_checkpoints", lambda t: t.keep_checkpoints >= 1),
            (
                "0 < power_ema_stds < 0.28",
                lambda t: all(0 < s < 0.28 for s in t.power_ema_stds),
            ),
            ("1 <= snapshot_every", lambda t: t.snapshot_every >= 1),
            ("0 <= max_skipped", lambda t: t.max_skipped >= 0),
        )


class NonFiniteLossError(Exception):
    """Loss or gradient were NaN or infinite too often; the message says when."""


def train(
    state: TrainState,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
    batch_at: Callable[[int], Batch],
    *,
    settings: Training,
    mesh: jax.sharding.Mesh,
    workdir: Path,
    show_samples: Callable[[TrainState], None],
) -> TrainState:
    """Train from the newest checkpoint in workdir, or from `state`, to num_steps.

    Args: `batch_at`, the batch of a step; `show_samples`, called every sample_every
    steps. The compiled step is given the state away.
    Raises: NonFiniteLossError, with the newest checkpoint still good; Stopped, if a
    signal asked to stop, after saving.
    """
    keep = settings.keep_checkpoints
    with Checkpoints(workdir / "checkpoints", keep=keep) as checkpoints:
        if checkpoints.newest_step() is not None:
            state = checkpoints.restore(state)
            print(f"resuming from step {int(state.step):,} in {workdir}")
        start = int(state.step)
        last = settings.num_steps
        if start >= last:
            print(f"{workdir} is trained: {start:,} steps.")
            return state
        unread: list[dict[str, jax.Array]] = []
        in_row = 0
        with Metrics(workdir, start_step=start, num_steps=last) as metrics:
            for step in range(start + 1, last + 1):
                batch = put_batch(batch_at(step - 1), mesh)
                state, now = train_step(state, batch)
                # Left on the device: reading them here would stall the next step.
                unread.append(now)
                if step == start + 1:
                    jax.block_until_ready(now)
                    metrics.start_clock(step)
                stopping = requested()
                saving = step % settings.checkpoint_every == 0 or step == last
                saving |= stopping
                if saving or step % settings.log_every == 0:
                    values, in_row = _means(
                        unread,
                        first_step=step + 1 - len(unread),
                        in_row=in_row,
                        max_skipped=settings.max_skipped,
                    )
                    metrics.write(step, values, images=len(batch["values"]))
                    unread = []
                if not stopping and (step % settings.sample_every == 0 or step == last):
                    show_samples(state)
                if step % settings.snapshot_every == 0 or step == last:
                    for std, average in zip(
                        settings.power_ema_stds, state.power_emas, strict=True
                    ):
                        save_snapshot(workdir / "averages", Profile(std, step), average)
                if saving:
                    checkpoints.save(state)
                if stopping and step < last:
                    checkpoints.wait()
                    raise Stopped(
                        f"stopped; step {step:,} is saved in {workdir}, and the same "
                        "command goes on from there."
                    )
    return state


def _means(
    rows: list[dict[str, jax.Array]], *, first_step: int, in_row: int, max_skipped: int
) -> tuple[dict[str, float], int]:
    """(each metric since the last report, updates left out in a row up to now).

    Means over the steps that were taken; of `skipped`, the number of the others.
    """
    columns = {
        name: np.asarray(jax.device_get([row[name] for row in rows]), np.float64)
        for name in rows[0]
    }
    skipped = columns.pop("skipped").astype(bool)
    for i in np.flatnonzero(skipped):
        in_row = in_row + 1 if i and skipped[i - 1] or not i else 1
        wrong = next(n for n, a in columns.items() if not np.isfinite(a[i]))
        what = f"{wrong} was {columns[wrong][i]} at step {first_step + int(i):,}"
        print(f"{what}: its update was left out.", file=sys.stderr)
        if in_row > max_skipped:
            raise NonFiniteLossError(
                f"{what}, after {in_row - 1} others in a row: training stopped. The "
                "newest checkpoint is from before them or has none of their updates; "
                "the batch of a step is a function of seed and step."
            )
    if not skipped[-1]:
        in_row = 0
    taken = {
        n: float(a[~skipped].mean()) for n, a in columns.items() if not skipped.all()
    }
    missing = {n: math.nan for n in columns if n not in taken}
    return taken | missing | {"skipped": float(skipped.sum())}, in_row
