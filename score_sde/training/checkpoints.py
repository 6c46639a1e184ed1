"""Checkpoints of a training state, by orbax, and resuming from the newest.

A checkpoint has two items of arrays: `average`, all that sampling and scoring need, and
`training`, the rest; and `manifest`: the checksum of each array, since orbax restores
one with a flipped bit without a word, and the metrics at that step. Checksums are
compared whenever arrays are restored. A checkpoint that is damaged is set aside, and
the newest good one is taken.

With several hosts, all of them see the directory and call the same methods in the same
order; the first alone renames and deletes.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from score_sde.runtime.checksums import checksums
from score_sde.runtime.mesh import is_main_host, wait_for_hosts
from score_sde.training.retention import KEEP_ALL, Retention
from score_sde.training.same_model import described, require_same_model
from score_sde.training.step import TrainState
from score_sde.types import UserError

T = TypeVar("T")
Tree = Any
ITEMS = ("average", "training")
MANIFEST = "manifest"


class DamagedError(Exception):
    """A checkpoint that can't be read, or whose arrays are not as they were saved."""


class SaveError(Exception):
    """A checkpoint could not be written; the message says why, and what is left."""


class Checkpoints:
    """The checkpoints of a run: a context manager that finishes writing at its end.

    Saving is asynchronous. With create=False, to read from a run, a directory that is
    not there is an error, and nothing in it is changed.

    Raises: FileNotFoundError.
    """

    def __init__(
        self,
        directory: Path,
        *,
        retention: Retention = KEEP_ALL,
        create: bool = True,
    ):
        self._directory = directory.absolute()
        if not create and not directory.is_dir():
            raise FileNotFoundError(f"no checkpoint in {self._directory}.")
        self._manager = ocp.CheckpointManager(
            self._directory,
            # Named, or a manager that has saved nothing can't describe what is there.
            item_handlers={
                **{n: ocp.StandardCheckpointHandler() for n in ITEMS},
                MANIFEST: ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                create=create,
                cleanup_tmp_directories=create,
                enable_async_checkpointing=jax.process_count() > 1,
            ),
        )
        self._retention, self._writes = retention, create
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._test_losses = {
            step: self._test_loss(step) if retention.best else math.inf
            for step in self.steps()
        }

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except SaveError:
            if kind is None:
                raise
        finally:
            self._writer.shutdown()
            self._manager.close()

    def save(
        self, state: TrainState, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Start writing the state under its step; a step that is there is left.

        Returns as soon as the state is copied: the next step may overwrite it.

        Raises: SaveError if there is no space for it, or if the last one failed.
        """
        step, metrics = int(state.step), dict(metrics or {})
        if step in self._test_losses:
            return
        self.wait()
        self._require_space(state)
        if jax.process_count() == 1:
            items = _items(_copied(state))
            self._writing = self._writer.submit(self._write, step, items, metrics)
        else:
            # Orbax meets the other hosts by collectives, whose order among those of
            # the step must be the same on all: it is called here, copies, and writes
            # in a thread of its own.
            try:
                self._write(step, _items(state), metrics)
            except Exception as error:  # orbax and its storage have many kinds
                raise self._failed(error) from error
        self._test_losses[step] = metrics.get("test_loss", math.inf)

    def _write(
        self, step: int, trees: dict[str, Tree], metrics: dict[str, float]
    ) -> None:
        items = {name: ocp.args.StandardSave(a) for name, a in trees.items()}
        manifest = {
            "checksums": {name: checksums(a) for name, a in trees.items()},
            "metrics": {n: v for n, v in metrics.items() if math.isfinite(v)},
        }
        items[MANIFEST] = ocp.args.JsonSave(manifest)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Return when all that was saved is on disk.

        Raises: SaveError.
        """
        writing, self._writing = self._writing, None
        try:
            if writing:
                writing.result()
            self._manager.wait_until_finished()
        except Exception as error:  # orbax and its storage have many kinds
            there = self.steps()
            for step in self._test_losses.keys() - there:
                del self._test_losses[step]
            raise self._failed(error) from error
        self._drop_old()

    def _drop_old(self) -> None:
        # By hand, since orbax counts foreign folders among those to keep.
        for step in self._test_losses.keys() - self._retention.kept(self._test_losses):
            del self._test_losses[step]
            if is_main_host():
                shutil.rmtree(self._directory / str(step), ignore_errors=True)

    def _require_space(self, state: TrainState) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise SaveError(
                f"no space for a checkpoint of {needed:,} bytes in {self._directory}, "
                f"where {free:,} are free; {self._what_is_left()}"
            )

    def _failed(self, error: Exception) -> SaveError:
        free = shutil.disk_usage(self._directory).free
        return SaveError(
            f"a checkpoint could not be written to {self._directory}, where {free:,} "
            f"bytes are free: {_first_line(error)}; {self._what_is_left()}"
        )

    def _what_is_left(self) -> str:
        steps = self.steps()
        if not steps:
            return "there is none from before."
        return f"that of step {steps[-1]:,} is whole."

    def _test_loss(self, step: int) -> float:
        try:
            read = self._manager.restore(
                step, args=ocp.args.Composite(**{MANIFEST: ocp.args.JsonRestore()})
            )
            return float(read[MANIFEST]["metrics"].get("test_loss", math.inf))
        except Exception:  # one without it, or damaged: the others rank before it
            return math.inf

    def steps(self) -> list[int]:
        """The steps with a checkpoint, ascending; whatever else is there is ignored."""
        return sorted(
            int(path.name)
            for path in self._directory.iterdir()
            if path.name.isdecimal() and (path / ITEMS[0]).is_dir()
        )

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint, or None.

        Raises: UserError if all that there were have been set aside as damaged, so that
        nobody takes the run for a new one.
        """
        steps = self.steps()
        if not steps and any(self._directory.glob("*.corrupt")):
            raise UserError(
                f"all checkpoints in {self._directory} are damaged. If they are not, "
                "take the ending .corrupt off their names; to train anew, name another "
                "--workdir."
            )
        return max(steps, default=None)

    def restore(self, like: TrainState) -> TrainState:
        """The newest good state, placed and typed as `like`.

        A damaged one is reported on the terminal, and renamed to STEP.corrupt by who
        writes the run.

        Raises: FileNotFoundError if there is none, UserError if its arrays have other
        names, shapes or types than `like`, or if none of those there is good.
        """
        step, items = self._restore(_items(like))
        training = items["training"]
        return TrainState(ema_params=items["average"], **training)

    def restore_average(self, like: Tree, *, step: int = 0) -> tuple[int, Tree]:
        """(step, averaged parameters) of a checkpoint; raises as `restore`.

        Args:
            like: a pytree of arrays, or of their shapes and types.
            step: of the checkpoint; 0 for the newest.
        """
        step, items = self._restore({"average": like}, step)
        return step, items["average"]

    def _restore(
        self, like: dict[str, Tree], wanted: int = 0
    ) -> tuple[int, dict[str, Tree]]:
        steps = [s for s in self.steps() if wanted in (0, s)]
        if not steps:
            which = f"of step {wanted:,} " if wanted else ""
            raise FileNotFoundError(f"no checkpoint {which}in {self._directory}.")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        for step in reversed(steps):
            try:
                return step, self._read(step, target)
            except DamagedError as error:
                self._set_aside(step, error)
        raise UserError(f"no checkpoint in {self._directory} is good: see above.")

    def _set_aside(self, step: int, error: Exception) -> None:
        path, done = self._directory / str(step), "left out"
        if is_main_host():
            if self._writes:
                aside = path.with_name(f"{step}.corrupt")
                path.rename(aside)
                done = f"moved to {aside}"
            print(f"checkpoint {path}: {error}; {done}", file=sys.stderr)
        wait_for_hosts(f"set aside {step}")
        self._test_losses.pop(step, None)
        self._manager.reload()

    def _read(self, step: int, target: dict[str, Tree]) -> dict[str, Tree]:
        found, known = _agreed(partial(self._read_here, step, target))
        for name in known.keys() & target.keys():
            sums = checksums(found[name])
            wrong = [n for n in sums if sums[n] != known[name].get(n)]
            if wrong:
                raise DamagedError(f"{name}.{wrong[0]} is not as it was saved")
        return found

    def _read_here(
        self, step: int, target: dict[str, Tree]
    ) -> tuple[dict[str, Tree], dict[str, dict[str, str]]]:
        """(arrays, the checksums that they had)."""
        try:
            saved = self._manager.item_metadata(step)
            stored = {name: described(saved[name]) for name in target}
        except Exception as error:  # orbax and its storage have many kinds
            raise DamagedError(_first_line(error)) from error
        for name in target:
            require_same_model(self._directory / str(step), stored[name], target[name])
        items = {name: ocp.args.StandardRestore(a) for name, a in target.items()}
        # Not in runs from before there was any.
        has_manifest = (self._directory / str(step) / MANIFEST).is_dir()
        if has_manifest:
            items[MANIFEST] = ocp.args.JsonRestore()
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**items))
            known = found[MANIFEST]["checksums"] if has_manifest else {}
        except Exception as error:
            raise DamagedError(_first_line(error)) from error
        return {name: found[name] for name in target}, known


def _agreed(read: Callable[[], T]) -> T:
    """What it returns, if it raises DamagedError on no host."""
    result, error = None, None
    try:
        result = read()
    except DamagedError as reason:
        error = reason
    if jax.process_count() > 1:
        good = multihost_utils.process_allgather(np.asarray(error is None))
        if error is None and not good.all():
            error = DamagedError("another host can't read it")
    if error is not None:
        raise error
    return cast("T", result)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _copied(state: TrainState) -> TrainState:
    """The state in memory that nobody else writes to, as that of a CPU's arrays is."""
    return jax.tree.map(np.array, state)


def _items(state: TrainState) -> dict[str, Tree]:
    training = state._asdict()
    for name in ("power_emas", "target"):
        if not training[name]:  # as in runs from before there were any
            del training[name]
    return {"average": training.pop("ema_params"), "training": training}
