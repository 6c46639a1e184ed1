"""Named tensors of a weight file, wherever they are in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from score_sde.types import UserError
from score_sde.weights.numpy_arrays import is_array, to_array
from score_sde.weights.records import Record, Strided

MAX_TENSORS = 100_000
UNNAMED = "shadow_params"
"""Name of the average of score_sde in PyTorch, a list in the order of parameters."""


class StateDict(NamedTuple):
    """Named tensors, and an average that has no names.

    `unnamed` replaces the trained parameters, in their order; it is empty where the
    average has names of its own.
    """

    named: dict[str, Any]
    unnamed: list[Any]


def state_dict(content: Any) -> StateDict:
    """Name all tensors in what `files.read` gives by the way to each, joined by dots.

    Anything else, such as settings, is left out. `fit` finds the
    network among the rest: whole training states are read too.

    Raises: UserError if there are none.
    """
    named: dict[str, Any] = {}
    unnamed: list[Any] = []
    for name, value in _entries(content, ""):
        if UNNAMED in name.split(".")[:-1]:
            unnamed.append(value)
        else:
            named[name] = value
        if len(named) + len(unnamed) > MAX_TENSORS:
            raise UserError("the file has too many tensors for any network.")
    if not named and not unnamed:
        raise UserError("the file has no tensors.")
    return StateDict(named, unnamed)


def array_of(name: str, value: Any) -> np.ndarray:
    """A tensor as an array.

    Raises: UserError if it is not inside the file.
    """
    if isinstance(value, (Strided, Record)):
        try:
            array = value.array() if isinstance(value, Strided) else to_array(value)
        except ValueError as error:
            raise UserError(f"{name!r} in the file is {error}.") from None
    else:
        array = np.asarray(value)
    return _norm_of_old_flax(name, array)


def _entries(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) from modules, and from nested dicts and lists."""
    if depth > 32:
        raise UserError("the file nests its modules too deeply, or in a circle.")
    if isinstance(value, (Strided, np.ndarray, np.number)) or is_array(value):
        yield name, value
    elif isinstance(value, Record):
        if isinstance(value.state, dict) and "_modules" in value.state:
            yield from _of_module(value.state, name, depth)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _entries(item, _joined(name, key), depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _entries(item, _joined(name, i), depth + 1)


def _of_module(
    state: dict[str, Any], name: str, depth: int
) -> Iterator[tuple[str, Any]]:
    """Yield the entries that the module's state dict would have."""
    lost = state.get("_non_persistent_buffers_set") or ()
    for part in ("_parameters", "_buffers", "_modules"):
        for key, item in (state.get(part) or {}).items():
            if not (part == "_buffers" and key in lost):
                yield from _entries(item, _joined(name, key), depth + 1)


def _joined(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _norm_of_old_flax(name: str, array: np.ndarray) -> np.ndarray:
    """Reshape parameters of group norms, (1, 1, 1, channels) in the Flax of 2021."""
    is_old = array.ndim == 4 and array.shape[:3] == (1, 1, 1)
    return array[0, 0, 0] if is_old and name.endswith((".scale", ".bias")) else array
