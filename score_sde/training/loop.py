"""The training loop: fold the step over the batches, report, save, resume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from score_sde.training.checkpoints import Checkpoints
from score_sde.training.mesh import put_batch
from score_sde.training.metrics import Metrics
from score_sde.training.post_hoc_ema import Profile, save_snapshot
from score_sde.training.step import Batch, TrainState
from score_sde.types import require


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of the loop.

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
        )


class NonFiniteLossError(Exception):
    """The loss or its gradient became NaN or infinite; the message says when."""


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
    Raises: NonFiniteLossError, with the newest checkpoint still good.
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
        with Metrics(workdir, start_step=start, num_steps=last) as metrics:
            for step in range(start + 1, last + 1):
                batch = put_batch(batch_at(step - 1), mesh)
                state, now = train_step(state, batch)
                # Left on the device: reading them here would stall the next step.
                unread.append(now)
                if step == start + 1:
                    jax.block_until_ready(now)
                    metrics.start_clock(step)
                saving = step % settings.checkpoint_every == 0 or step == last
                if saving or step % settings.log_every == 0:
                    values = _means(unread, first_step=step + 1 - len(unread))
                    metrics.write(step, values, images=len(batch["values"]))
                    unread = []
                if step % settings.sample_every == 0 or step == last:
                    show_samples(state)
                if step % settings.snapshot_every == 0 or step == last:
                    for std, average in zip(
                        settings.power_ema_stds, state.power_emas, strict=True
                    ):
                        save_snapshot(workdir / "averages", Profile(std, step), average)
                if saving:
                    checkpoints.save(state)
    return state


def _means(rows: list[dict[str, jax.Array]], *, first_step: int) -> dict[str, float]:
    """Mean of each metric over the steps since the last report, all of them finite."""
    means = {}
    for name in rows[0]:
        values = np.asarray(jax.device_get([row[name] for row in rows]), np.float64)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise NonFiniteLossError(
                f"{name} was {values[wrong[0]]} at step "
                f"{first_step + int(wrong[0]):,}: training "
                "stopped. The newest checkpoint is from before that step."
            )
        means[name] = float(values.mean())
    return means
