"""The training loop: fold the step over the batches, report, save, resume."""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from score_sde.fields import (
    NonNegative,
    Positive,
    PositiveOrInfinite,
    Share,
    at_least,
    between,
    each,
    one_of,
    require,
    settings,
)
from score_sde.runtime.folder import write_json
from score_sde.runtime.mesh import is_main_host, put_batch, to_host
from score_sde.runtime.preemption import Stopped, requested
from score_sde.training.checkpoints import Checkpoints, Retention, SaveError
from score_sde.training.goodput import Goodput
from score_sde.training.metrics import Metrics
from score_sde.training.post_hoc_ema import Profile, save_snapshot
from score_sde.training.profiling import Profiler
from score_sde.training.step import STOP, Batch, TrainState, TrainStep
from score_sde.training.watch import Watch

LEFT_OVER = "unreported.json"
FAILED_SAVES = ("stop", "continue")
IN_FLIGHT = 2
"""Calls of the step that the host may be ahead of the devices: enough to keep them
busy, few enough to stop soon."""


@settings
class Training:
    """Settings of training.

    Attributes:
        num_steps: how many there are.
        condition_dropout: share of the examples whose condition is not told, for
            guidance (Ho and Salimans 2022).
        ema_halflife_steps: of the moving average of the parameters.
        ema_rampup_ratio: at most this share of the steps taken is that half-life; inf
            turns that off.
        log_every: steps between reports.
        sample_every: steps between pictures of samples and losses of held-out examples.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest checkpoints are kept.
        keep_every: checkpoints whose step is a multiple of it are kept; 0 for none.
        keep_best: how many with the lowest test_loss are kept, which are sought among
            the checkpoints at which it is known.
        on_failed_save: whether training stops or continues where one can't be written.
        max_skipped: updates in a row whose loss or gradient is not finite, and which
            are therefore left out, before training gives up.
        spike_factor: a gradient as many times longer than the median of those before is
            reported, and a loss as many times further above theirs than is usual.
        rollback: whether training then goes on from the newest checkpoint, with the
            batches behind those of the spike.
        profile_steps: how many are traced into workdir/profile, soon after the start.
        power_ema_stds: relative widths of averages that are stored, from which
            `reconstruct-ema` makes those of other widths.
        snapshot_every: steps between stored averages.
    """

    num_steps: Annotated[int, at_least(1)]
    condition_dropout: Annotated[float, Share] = 0.0
    ema_halflife_steps: Annotated[float, Positive] = 500.0
    ema_rampup_ratio: Annotated[float, PositiveOrInfinite] = 0.05
    log_every: Annotated[int, at_least(1)] = 50
    sample_every: Annotated[int, at_least(1)] = 1000
    checkpoint_every: Annotated[int, at_least(1)] = 1000
    keep_checkpoints: Annotated[int, at_least(1)] = 2
    keep_every: Annotated[int, NonNegative] = 0
    keep_best: Annotated[int, NonNegative] = 0
    on_failed_save: Annotated[str, one_of(FAILED_SAVES)] = "stop"
    max_skipped: Annotated[int, NonNegative] = 10
    spike_factor: Annotated[float, between(1, math.inf)] = 100.0
    rollback: bool = False
    profile_steps: Annotated[int, NonNegative] = 0
    power_ema_stds: Annotated[tuple[float, ...], each(between(0, 0.28))] = ()
    snapshot_every: Annotated[int, at_least(1)] = 1000

    def __post_init__(self) -> None:
        require(
            self,
            (
                "checkpoint_every a multiple of sample_every for keep_best",
                lambda t: not t.keep_best or t.checkpoint_every % t.sample_every == 0,
            ),
        )


def train(
    state: TrainState,
    train_step: TrainStep,
    batches: Callable[[int], Iterator[Batch]],
    *,
    settings: Training,
    mesh: jax.sharding.Mesh,
    workdir: Path,
    evaluate: Callable[[TrainState], Mapping[str, float]],
    steps_per_call: int = 1,
    flops_per_image: float = 0.0,
) -> TrainState:
    """Train from the newest checkpoint in workdir, or from `state`, to num_steps.

    Args: `train_step`, compiled, which is given the state away; `batches(step)`, this
    host's share of the batches from that step on; `evaluate`, called every sample_every
    steps, whose metrics are reported with the others.
    Raises: NonFiniteLossError, with the newest checkpoint still good; SaveError;
    Stopped, if a signal asked to stop, after saving.
    """
    goodput, last = Goodput(), settings.num_steps
    retention = Retention(
        settings.keep_checkpoints, settings.keep_every, settings.keep_best
    )
    with Checkpoints(workdir / "checkpoints", retention=retention) as checkpoints:
        if checkpoints.newest_step() is not None:
            state = checkpoints.restore(state)
            _say(f"resuming from step {int(state.step):,} in {workdir}")
        start = int(state.step)
        if start >= last:
            _say(f"{workdir} is trained: {start:,} steps.")
            return state
        stream = batches(start)
        watch = Watch(settings.max_skipped, settings.spike_factor)
        unread = _left_over(workdir, start)
        profiler = Profiler(workdir, settings.profile_steps if is_main_host() else 0)
        flags: deque[jax.Array] = deque(maxlen=IN_FLIGHT + 1)
        with Metrics(
            workdir, start_step=start, num_steps=last, writes=is_main_host()
        ) as metrics:
            for before in range(start, last, steps_per_call):
                step = min(before + steps_per_call, last)
                with goodput.spent("data"):
                    rows = list(islice(stream, step - before))
                    images = len(rows[0]["values"]) * jax.process_count()
                    batch = _placed(rows, mesh, several=steps_per_call > 1)
                is_first = before == start
                with goodput.spent("compile") if is_first else nullcontext():
                    state, now = train_step(state, batch)
                    if is_first:
                        jax.block_until_ready(now)
                        metrics.start_clock(step)
                profiler.after(step - start, now)
                # Left on the devices: reading them here would stall the next step.
                unread.append(now)
                if len(unread) > IN_FLIGHT:
                    jax.block_until_ready(unread[-1 - IN_FLIGHT])
                stopping = requested()
                if jax.process_count() > 1:
                    flags.append(now[STOP])
                    # Of a step that every host has seen, so that all stop at this one.
                    stopping = len(flags) > IN_FLIGHT and bool(np.any(flags[0]))

                def due(every: int, before: int = before, step: int = step) -> bool:
                    return step // every > before // every or step == last

                values: dict[str, float] = {}
                evaluating = due(settings.sample_every) and not stopping
                saving = due(settings.checkpoint_every)
                if saving or evaluating or due(settings.log_every):
                    values |= watch.means(unread, last_step=step)
                    unread = []
                    if settings.rollback and watch.spiked:
                        state = _rolled_back(checkpoints, state)
                    if evaluating:
                        with goodput.spent("evaluate"):
                            values |= evaluate(state)
                    seconds = goodput.since_mark()
                    flops = flops_per_image * images
                    metrics.write(
                        step, values, images=images, flops=flops, seconds=seconds
                    )
                if settings.power_ema_stds and due(settings.snapshot_every):
                    _save_averages(workdir, settings.power_ema_stds, state, mesh)
                if saving or stopping:
                    with goodput.spent("save"):
                        _save(checkpoints, state, values, settings.on_failed_save)
                if stopping and step < last:
                    checkpoints.wait()
                    _leave_over(workdir, step, unread)
                    raise Stopped(
                        f"stopped; step {step:,} is saved in {workdir}, and the same "
                        "command goes on from there."
                    )
        profiler.stop()
        with goodput.spent("save"):
            checkpoints.wait()
    _say(f"trained {last - start:,} steps in {goodput.summary()}")
    return state


def _placed(rows: list[Batch], mesh: jax.sharding.Mesh, *, several: bool) -> Batch:
    """The batches of one call on the devices, with the wish of this host to stop."""
    if jax.process_count() > 1:
        for row in rows:
            row[STOP] = np.full(len(row["values"]), requested())
    if several:
        return put_batch(jax.tree.map(lambda *a: np.stack(a), *rows), mesh, axis=1)
    return put_batch(rows[0], mesh)


def _leave_over(
    workdir: Path, step: int, unread: list[Mapping[str, jax.Array]]
) -> None:
    """Keep what was measured since the last report, for that of the next run."""
    if is_main_host():
        rows = [
            {name: np.asarray(a).tolist() for name, a in row.items()}
            for row in jax.device_get(unread)
        ]
        write_json(workdir / LEFT_OVER, {"step": step, "rows": rows})


def _left_over(workdir: Path, step: int) -> list[Mapping[str, Any]]:
    """What a run that was stopped at this step left."""
    path = workdir / LEFT_OVER
    left = json.loads(path.read_text()) if path.exists() else {"step": None}
    return left["rows"] or [] if left["step"] == step else []


def _save_averages(
    workdir: Path, stds: tuple[float, ...], state: TrainState, mesh: jax.sharding.Mesh
) -> None:
    for std, average in zip(stds, state.power_emas, strict=True):
        params = to_host(average, mesh)
        if is_main_host():
            profile = Profile(std, int(state.step))
            save_snapshot(workdir / "averages", profile, params)


def _save(
    checkpoints: Checkpoints,
    state: TrainState,
    values: Mapping[str, float],
    on_failure: str,
) -> None:
    try:
        checkpoints.save(state, values)
    except SaveError as error:
        if on_failure == "stop":
            raise
        print(error, file=sys.stderr)


def _rolled_back(checkpoints: Checkpoints, state: TrainState) -> TrainState:
    """The newest checkpoint, at the step of the state, or the state if there is none.

    The steps in between are passed over with their batches, which would lead to the
    same again: both are functions of the number of the step.
    """
    checkpoints.wait()
    if checkpoints.newest_step() is None:
        _say("there is no checkpoint yet to go back to.")
        return state
    good = checkpoints.restore(state)
    _say(f"went back to what was learned until step {int(good.step):,}")
    return good._replace(step=state.step)


def _say(text: str) -> None:
    if is_main_host():
        print(text)
