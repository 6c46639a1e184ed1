"""Checkpoints of a training state, by orbax, and resuming from the newest.

A checkpoint has two items of arrays: `average`, all that sampling and scoring need, and
`training`, the rest; and `digests`, a SHA-256 of each array, since orbax restores an
array with a flipped bit without a word. They are compared whenever one is restored. One
that is damaged is set aside, and the newest good one is taken.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from score_sde.training.step import TrainState
from score_sde.types import UserError

Tree = Any
ITEMS = ("average", "training")
DIGESTS = "digests"


class DamagedError(Exception):
    """A checkpoint that can't be read, or whose arrays are not as they were saved."""


class Checkpoints:
    """The checkpoints of a run: a context manager that finishes writing at its end.

    Saving is asynchronous. The `keep` newest are kept. With create=False, to read from
    a run, a directory that is not there is an error.

    Raises: FileNotFoundError.
    """

    def __init__(self, directory: Path, *, keep: int = 2, create: bool = True):
        self._directory = directory.absolute()
        if not create and not directory.is_dir():
            raise FileNotFoundError(f"no checkpoint in {self._directory}.")
        self._manager = ocp.CheckpointManager(
            self._directory,
            # Named, or a manager that has saved nothing can't describe what is there.
            item_handlers={
                **{n: ocp.StandardCheckpointHandler() for n in ITEMS},
                DIGESTS: ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(create=create),
        )
        self._keep = keep

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._manager.close()

    def save(self, state: TrainState) -> None:
        """Start writing the state under its step; a step that is there is left."""
        step = int(state.step)
        if step in self.steps():
            return
        self._drop_old()
        items = {name: ocp.args.StandardSave(a) for name, a in _items(state).items()}
        digests = {name: _digests(a) for name, a in _items(state).items()}
        items[DIGESTS] = ocp.args.JsonSave(digests)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Return when all that was saved is on disk."""
        self._manager.wait_until_finished()
        self._drop_old()

    def _drop_old(self) -> None:
        # Orbax would count foreign folders among those to keep.
        for step in self.steps()[: -self._keep]:
            self._manager.delete(step)

    def steps(self) -> list[int]:
        """Those with a checkpoint, ascending; whatever else lies there is ignored."""
        return sorted(
            int(path.name)
            for path in self._directory.iterdir()
            if path.name.isdecimal() and (path / ITEMS[0]).is_dir()
        )

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return max(self.steps(), default=None)

    def restore(self, like: TrainState) -> TrainState:
        """The newest good state, placed and typed as `like`.

        A damaged one is renamed to STEP.corrupt, with a warning on the terminal.

        Raises: FileNotFoundError if there is none, UserError if its arrays have other
        names, shapes or types than `like`, or if none of those there is good.
        """
        step, items = self._restore(_items(like))
        training = items["training"]
        return TrainState(ema_params=items["average"], **training)

    def restore_average(self, like: Tree) -> tuple[int, Tree]:
        """(step, averaged parameters) of the newest checkpoint; raises as `restore`."""
        step, items = self._restore({"average": like})
        return step, items["average"]

    def _restore(self, like: dict[str, Tree]) -> tuple[int, dict[str, Tree]]:
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(f"no checkpoint in {self._directory}.")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        for step in reversed(steps):
            try:
                return step, self._read(step, target)
            except DamagedError as error:
                path = self._directory / str(step)
                aside = path.with_name(f"{step}.corrupt")
                path.rename(aside)
                self._manager.reload()
                print(f"checkpoint {path}: {error}; moved to {aside}", file=sys.stderr)
        raise UserError(f"no checkpoint in {self._directory} is good: see above.")

    def _read(self, step: int, target: dict[str, Tree]) -> dict[str, Tree]:
        try:
            saved = self._manager.item_metadata(step)
            described = {name: _described(saved[name]) for name in target}
        except Exception as error:  # orbax and its storage have many kinds
            raise DamagedError(_first_line(error)) from error
        for name in target:
            _check(self._directory / str(step), described[name], target[name])
        items = {name: ocp.args.StandardRestore(a) for name, a in target.items()}
        has_digests = (self._directory / str(step) / DIGESTS).is_dir()
        if has_digests:  # not in runs from before there were any
            items[DIGESTS] = ocp.args.JsonRestore()
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**items))
            known = found[DIGESTS] if has_digests else {}
        except Exception as error:
            raise DamagedError(_first_line(error)) from error
        for name in target if has_digests else ():
            wrong = [n for n, d in _digests(found[name]).items() if d != known[name][n]]
            if wrong:
                raise DamagedError(f"{name}.{wrong[0]} is not as it was saved")
        return {name: found[name] for name in target}


def _digests(tree: Tree) -> dict[str, str]:
    """SHA-256 of the bytes of each array, by its path."""
    return {
        ".".join(map(_word, path)): hashlib.sha256(
            np.ascontiguousarray(jax.device_get(leaf)).data
        ).hexdigest()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _items(state: TrainState) -> dict[str, Tree]:
    training = state._asdict()
    if not state.power_emas:  # as in runs from before there were any
        del training["power_emas"]
    return {"average": training.pop("ema_params"), "training": training}


def _check(path: Path, was: dict[str, str], target: Tree) -> None:
    """Names, shapes and types, which orbax casts, or reports amid pages of noise."""
    wanted = _described(target)
    wrong = [
        f"  {name}: {was.get(name, 'absent')} there, {wanted.get(name, 'absent')} here"
        for name in sorted(was.keys() | wanted.keys())
        if was.get(name) != wanted.get(name)
    ]
    if wrong:
        more = [f"  and {len(wrong) - 10} more"] if len(wrong) > 10 else []
        raise UserError(
            "\n".join([f"checkpoint {path} is of another model:", *wrong[:10], *more])
        )


def _described(tree: Tree) -> dict[str, str]:
    """Path -> type and shape of each array; containers of any kind compare alike."""
    return {
        ".".join(_word(entry) for entry in path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }


def _word(entry: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)
