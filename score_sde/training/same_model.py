"""Whether a checkpoint has the arrays of a model: their names, shapes and types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from score_sde.runtime.checksums import path_text
from score_sde.types import UserError

Tree = Any


def require_same_model(path: Path, was: dict[str, str], target: Tree) -> None:
    """Raise a UserError if names, shapes or types are not those that are wanted.

    Orbax casts types, and reports the others amid pages of noise.
    """
    wanted = described(target)
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


def described(tree: Tree) -> dict[str, str]:
    """Path -> type and shape of each array; containers of any kind compare alike."""
    return {
        path_text(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }
