"""Reading the averaged parameters of a run, whole on every device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from score_sde.runtime.checksums import digest
from score_sde.runtime.mesh import (
    Devices,
    local_mesh,
    make_mesh,
    replicated,
    to_host,
)
from score_sde.training.checkpoints import Checkpoints


class Restored(NamedTuple):
    """The averaged parameters of a checkpoint."""

    step: int
    params: Any
    digest: str
    """Of all the parameters, 16 hexadecimal digits."""


def restored_average(folder: Path, like: Any, *, step: int = 0) -> Restored:
    """Read the averaged parameters of a checkpoint.

    Args:
        folder: of the checkpoints of a run.
        like: a pytree of arrays, or of their shapes and types.
        step: of the checkpoint; 0 for the newest.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is not of such parameters, or damaged.
    """
    mesh = make_mesh(Devices())
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)),
        like,
    )
    with Checkpoints(folder, create=False) as checkpoints:
        found, params = checkpoints.restore_average(like, step=step)
    known = digest(params)
    if jax.process_count() > 1:
        params = jax.device_put(to_host(params, mesh), replicated(local_mesh()))
    return Restored(found, params, known)
