"""Named arrays into the parameters of a network, every one accounted for, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from score_sde.networks.tensors import Tensor, leaf_of, params_of
from score_sde.types import UserError
from score_sde.weights.state_dict import StateDict

PREFIXES = ("model.", "unet.")
"""Of the preconditioned network around the one that has the weights."""

SHOWN = 8


def fit(
    state: StateDict, tables: Mapping[str, Sequence[Tensor]], like: Any
) -> tuple[str, Any]:
    """(program, parameters shaped and typed as `like`) from the arrays of a file.

    Args: `tables`, program -> the names that its files of this network use; that which
    has the most names in common with the file is taken.
    Raises: UserError that lists all missing, unused, misshapen and unfit tensors.
    """
    candidates = [
        (program, table, named)
        for program, table in tables.items()
        for named in _renamed(state.named, {tensor.name for tensor in table})
    ]
    program, table, named = max(
        candidates, key=lambda c: len(c[2].keys() & {tensor.name for tensor in c[1]})
    )
    problems: list[str] = []
    if state.unnamed:
        trained = [t.name for t in table if t.path and not t.frozen]
        if len(trained) != len(state.unnamed):
            problems.append(
                f"the average has {len(state.unnamed)} tensors; the network trains "
                f"{len(trained)}"
            )
        named = named | dict(zip(trained, state.unnamed, strict=False))
    known = {tensor.name for tensor in table}
    missing = [t.name for t in table if t.name not in named and not t.unused]
    problems += _listed("missing", missing)
    problems += _listed("unused", [n for n in named if n not in known])
    misshapen, unfit = [], []
    arrays: list[tuple[Tensor, np.ndarray]] = []
    for tensor in table:
        if tensor.name not in named or tensor.unused:
            continue
        array = named[tensor.name]
        target = leaf_of(like, tensor)
        shape = _published_shape(tensor, target)
        if array.shape != shape:
            misshapen.append(f"{tensor.name} {list(array.shape)}, not {list(shape)}")
        elif why := _unfit(tensor, array):
            unfit.append(f"{tensor.name} ({why})")
        elif tensor.path:
            here = tensor.layout.to_here(array.astype(target.dtype))
            arrays.append((tensor, np.ascontiguousarray(here).reshape(target.shape)))
    problems += _listed("misshapen", misshapen) + _listed("unfit", unfit)
    if problems:
        raise UserError("\n  ".join(["the file doesn't fit the network:", *problems]))
    return program, params_of(arrays)


def published_arrays(params: Any, table: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The entries of a published state dict that holds these parameters."""
    arrays = {}
    for tensor in table:
        array = tensor.value
        if tensor.path:
            array = tensor.layout.to_published(np.asarray(leaf_of(params, tensor)))
        assert array is not None
        arrays[tensor.name] = np.ascontiguousarray(array).reshape(array.shape)
    return arrays


def _renamed(
    named: dict[str, np.ndarray], known: set[str]
) -> list[dict[str, np.ndarray]]:
    """The arrays under their own names, and without or with a wrapper's prefix."""
    return [
        named,
        *({n.removeprefix(p): a for n, a in named.items()} for p in PREFIXES),
        *(
            {(n if n in known else p + n): a for n, a in named.items()}
            for p in PREFIXES
        ),
    ]


def _published_shape(tensor: Tensor, target: Any) -> tuple[int, ...]:
    if tensor.value is not None:
        return tensor.value.shape
    nothing = np.broadcast_to(np.float32(0), target.shape)
    return tensor.layout.to_published(nothing).shape


def _unfit(tensor: Tensor, array: np.ndarray) -> str:
    """Why an array of the right shape can't be what the entry is."""
    if tensor.value is not None:
        # Files in half precision round it.
        same = np.allclose(array.astype(np.float64), tensor.value, rtol=2e-3)
        return "" if same else "not the values that the network computes with"
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        return f"{array.dtype}, not a float"
    return "" if np.isfinite(array.astype(np.float32)).all() else "not finite"


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(sorted(names)[:SHOWN])}{more}"]
