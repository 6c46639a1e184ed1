"""Checkpoints of a training state, by orbax, and resuming from the newest.

A checkpoint has two items: `average`, all that sampling and scoring need, and
`training`, the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from score_sde.training.step import TrainState
from score_sde.types import UserError

Tree = Any
ITEMS = ("average", "training")


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
            item_handlers={n: ocp.StandardCheckpointHandler() for n in ITEMS},
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=create),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState) -> None:
        """Start writing the state under its step; a step that is there is left."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            items = {
                name: ocp.args.StandardSave(a) for name, a in _items(state).items()
            }
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, placed and typed as `like`.

        Raises: FileNotFoundError if there is none, UserError if its arrays have other
        names, shapes or types than `like`.
        """
        step, items = self._restore(_items(like))
        training = items["training"]
        return TrainState(ema_params=items["average"], **training)

    def restore_average(self, like: Tree) -> tuple[int, Tree]:
        """(step, averaged parameters) of the newest checkpoint; raises as `restore`."""
        step, items = self._restore({"average": like})
        return step, items["average"]

    def _restore(self, like: dict[str, Tree]) -> tuple[int, dict[str, Tree]]:
        step = self.newest_step()
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._directory}.")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        saved = self._manager.item_metadata(step)
        for name in target:
            _check(self._directory / str(step), saved[name], target[name])
        items = {name: ocp.args.StandardRestore(a) for name, a in target.items()}
        return step, self._manager.restore(step, args=ocp.args.Composite(**items))


def _items(state: TrainState) -> dict[str, Tree]:
    training = state._asdict()
    if not state.power_emas:  # as in runs from before there were any
        del training["power_emas"]
    return {"average": training.pop("ema_params"), "training": training}


def _check(path: Path, saved: Tree, target: Tree) -> None:
    """Names, shapes and types, which orbax casts, or reports amid pages of noise."""
    was, wanted = _described(saved), _described(target)
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
