"""The training loop: fold the step over the batches, report, save, resume."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_sde.runtime.folder import write_json
from score_sde.runtime.mesh import is_main_host, put_batch, to_host
from score_sde.runtime.preemption import Stopped, requested
from score_sde.training.checkpoints import Checkpoints, SaveError
from score_sde.training.goodput import Goodput
from score_sde.training.metrics import Metrics
from score_sde.training.post_hoc_ema import Profile, save_snapshot
from score_sde.training.profiling import Profiler
from score_sde.training.settings import Training
from score_sde.training.step import STOP, Batch, TrainState, TrainStep
from score_sde.training.watch import Watch

LEFT_OVER = "unreported.json"
IN_FLIGHT = 2
"""Calls of the step that the host may be ahead of the devices: enough to keep them
busy, few enough to stop soon."""

Evaluate = Callable[[TrainState], Mapping[str, float]]


def train(
    state: TrainState,
    train_step: TrainStep,
    batches: Callable[[int], Iterator[Batch]],
    *,
    settings: Training,
    mesh: jax.sharding.Mesh,
    workdir: Path,
    evaluate: Evaluate,
    steps_per_call: int = 1,
    flops_per_image: float = 0.0,
    restored: Callable[[], None] = lambda: None,
) -> TrainState:
    """Train from the newest checkpoint in workdir, or from `state`, to num_steps.

    Args:
        state: the first state, placed on the mesh.
        train_step: compiled; it is given the state away.
        batches: step -> this host's share of the batches from that step on.
        settings: of the config.
        mesh: on which the state lies.
        workdir: the folder of the run.
        evaluate: called every sample_every steps; its metrics are reported with the
            others.
        steps_per_call: batches that the step takes at once.
        flops_per_image: operations of a step for one example, for the report.
        restored: called once the state is there, before workdir is changed.

    Raises:
        NonFiniteLossError: with the newest checkpoint still good.
        SaveError: if a checkpoint can't be written.
        Stopped: after saving, if a signal asked to stop.
        Exception: what reading the batches raises, after saving.
    """
    goodput, last = Goodput(), settings.num_steps
    folder, retention = workdir / "checkpoints", settings.retention
    with Checkpoints(folder, retention=retention) as checkpoints:
        state = _resumed(checkpoints, state, workdir)
        restored()
        start = int(state.step)
        if start >= last:
            _say(f"{workdir} is trained: {start:,} steps.")
            return state
        _say(f"compiling; then {last - start:,} steps, to step {last:,}")
        stream = batches(start)
        with Metrics(
            workdir, start_step=start, num_steps=last, writes=is_main_host()
        ) as metrics:
            loop = _Loop(workdir, settings, mesh, checkpoints, metrics, goodput, start)
            for before in range(start, last, steps_per_call):
                step = min(before + steps_per_call, last)
                with goodput.spent("data"), loop.saved_first(state, before):
                    rows = list(islice(stream, step - before))
                    batch = _placed(rows, mesh, several=steps_per_call > 1)
                state = loop.call(train_step, state, batch, before, step)
                images = len(rows[0]["values"]) * jax.process_count()
                work = images, flops_per_image * images
                state = loop.look(state, before, step, evaluate, *work)
        loop.finish()
    _say(f"trained {last - start:,} steps in {goodput.summary()}")
    return state


class _Loop:
    """Training under way: what was measured, and what is due after each call."""

    def __init__(
        self,
        workdir: Path,
        settings: Training,
        mesh: jax.sharding.Mesh,
        checkpoints: Checkpoints,
        metrics: Metrics,
        goodput: Goodput,
        start: int,
    ):
        self.workdir, self.settings, self.mesh = workdir, settings, mesh
        self.checkpoints, self.metrics, self.goodput = checkpoints, metrics, goodput
        self.start = start
        self.watch = Watch(settings.max_skipped, settings.spike_factor)
        self.unread = _left_over(workdir, start)
        steps = settings.profile_steps if is_main_host() else 0
        self.profiler = Profiler(workdir, steps)
        self.flags: deque[jax.Array] = deque(maxlen=IN_FLIGHT + 1)

    def call(
        self,
        train_step: TrainStep,
        state: TrainState,
        batch: Batch,
        before: int,
        step: int,
    ) -> TrainState:
        """Start the steps from `before` to `step`, and stay few calls ahead of them."""
        is_first = before == self.start
        with self.goodput.spent("compile") if is_first else nullcontext():
            state, now = train_step(state, batch)
            if is_first:
                jax.block_until_ready(now)
                self.metrics.start_clock(step)
        self.profiler.after(step - self.start, now)
        # Left on the devices: reading them here would stall the next step.
        self.unread.append(now)
        if len(self.unread) > IN_FLIGHT:
            jax.block_until_ready(self.unread[-1 - IN_FLIGHT])
        if jax.process_count() > 1:
            self.flags.append(now[STOP])
        return state

    def is_stopping(self) -> bool:
        """Whether a signal has asked to stop, the same on every host."""
        if jax.process_count() == 1:
            return requested()
        # Of a step that every host has seen, so that all stop at this one.
        return len(self.flags) > IN_FLIGHT and bool(np.any(self.flags[0]))

    def look(
        self,
        state: TrainState,
        before: int,
        step: int,
        evaluate: Evaluate,
        images: int,
        flops: float,
    ) -> TrainState:
        """Report, evaluate and save what is due, and stop if asked to.

        Args:
            state: after `step`.
            before: the step that the last call began with.
            step: the step that it ended with.
            evaluate: makes the metrics of a state.
            images: examples of one step.
            flops: operations of one step.

        Returns:
            The state to go on with.

        Raises:
            Stopped: after saving.
        """
        settings, stopping = self.settings, self.is_stopping()

        def due(every: int) -> bool:
            is_last = step == settings.num_steps
            return step // every > before // every or is_last

        values: dict[str, float] = {}
        evaluating = due(settings.sample_every) and not stopping
        saving = due(settings.checkpoint_every)
        if saving or evaluating or due(settings.log_every):
            values |= self.watch.means(self.unread, last_step=step)
            self.unread = []
            if settings.rollback and self.watch.spiked:
                state = _rolled_back(self.checkpoints, state)
            if evaluating:
                with self.goodput.spent("evaluate"):
                    values |= evaluate(state)
            seconds = self.goodput.since_mark()
            self.metrics.write(
                step, values, images=images, flops=flops, seconds=seconds
            )
        if settings.power_ema_stds and due(settings.snapshot_every):
            _save_averages(self.workdir, settings.power_ema_stds, state, self.mesh)
        if saving or stopping:
            with self.goodput.spent("save"):
                _save(self.checkpoints, state, values, settings.on_failed_save)
        if stopping and step < settings.num_steps:
            self.checkpoints.wait()
            _leave_over(self.workdir, step, self.unread)
            raise Stopped(
                f"stopped; step {step:,} is saved in {self.workdir}, and the same "
                "command goes on from there."
            )
        return state

    @contextmanager
    def saved_first(self, state: TrainState, step: int) -> Iterator[None]:
        """Save the state if the data of the next step can't be read.

        Of several hosts only some may fail, and a checkpoint needs all of them: there
        the newest one stays.

        Args:
            state: after `step`.
            step: the last one that was taken.
        """
        try:
            yield
        except Exception:
            if jax.process_count() == 1 and step > self.start:
                _save(self.checkpoints, state, {}, self.settings.on_failed_save)
                self.checkpoints.wait()
                _leave_over(self.workdir, step, self.unread)
                _say(f"the next data can't be read; step {step:,} is saved.")
            raise

    def finish(self) -> None:
        """Wait for what is still being written."""
        self.profiler.stop()
        with self.goodput.spent("save"):
            self.checkpoints.wait()


def _resumed(checkpoints: Checkpoints, state: TrainState, workdir: Path) -> TrainState:
    """The newest checkpoint, or the state if there is none."""
    if checkpoints.newest_step() is None:
        return state
    state = checkpoints.restore(state)
    _say(f"resuming from step {int(state.step):,} in {workdir}")
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
    """Read what a run that stopped at this step had measured and not reported."""
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
        print(text, flush=True)
