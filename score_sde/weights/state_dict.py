"""From what a file holds to named arrays: which part counts, and what it is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from score_sde.types import UserError
from score_sde.weights.unpickle import Record, Strided

MAX_TENSORS = 100_000


class StateDict(NamedTuple):
    """Named arrays, and an average that has no names.

    `unnamed` replaces the trained parameters, in their order; it is empty where the
    average has names of its own.
    """

    named: dict[str, np.ndarray]
    unnamed: list[np.ndarray]


def state_dict(content: Any) -> StateDict:
    """The weights in what `files.read` gives, their moving average if there is one.

    - a plain state dict, or one under "state_dict" or "model";
    - DiT: the average under "ema";
    - EDM and EDM2: the module under "ema";
    - score_sde in PyTorch: the average is a list without names, "ema.shadow_params";
    - score_sde in Flax: the average under "params_ema".

    Raises: UserError if there are no weights, or there is something else among them.
    """
    unnamed: list[np.ndarray] = []
    if isinstance(content, dict):
        average = content.get("ema")
        if isinstance(average, dict) and "shadow_params" in average:
            unnamed = [_array("shadow_params", a) for a in average["shadow_params"]]
            content = content.get("model", {})
        else:
            for part in ("ema", "params_ema", "state_dict", "model"):
                if isinstance(content.get(part), (dict, Record)):
                    content = content[part]
                    break
    named: dict[str, np.ndarray] = {}
    for name, value in _entries(content, ""):
        named[name] = _array(name, value)
        if len(named) > MAX_TENSORS:
            raise UserError("the file has too many tensors for any network.")
    if not named:
        raise UserError("the file has no tensors.")
    named = {name: _norm_of_old_flax(name, array) for name, array in named.items()}
    return StateDict(_without_prefix(named, "module."), unnamed)


def _entries(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of modules, and of nested or flat dicts of tensors."""
    if depth > 32:
        raise UserError("the file nests its modules too deeply, or in a circle.")
    if isinstance(value, Record):
        state = value.state
        if not isinstance(state, dict) or "_modules" not in state:
            raise UserError(f"{value.kind} in the file is no module.")
        lost = state.get("_non_persistent_buffers_set") or ()
        for part in ("_parameters", "_buffers", "_modules"):
            for key, item in (state.get(part) or {}).items():
                if item is not None and not (part == "_buffers" and key in lost):
                    yield from _entries(item, _joined(name, key), depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _entries(item, _joined(name, key), depth + 1)
    else:
        yield name, value


def _joined(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, Strided):
        try:
            return value.array()
        except ValueError as error:
            raise UserError(f"{name!r} in the file is {error}.") from None
    if isinstance(value, (np.ndarray, np.number)):
        return np.asarray(value)
    raise UserError(
        f"{name!r} in the file is a {type(value).__name__}, where a tensor should be."
    )


def _norm_of_old_flax(name: str, array: np.ndarray) -> np.ndarray:
    """Group norm's parameters, which were (1, 1, 1, channels) in the Flax of 2021."""
    is_old = array.ndim == 4 and array.shape[:3] == (1, 1, 1)
    return array[0, 0, 0] if is_old and name.endswith((".scale", ".bias")) else array


def _without_prefix(named: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Names without what all of them begin with."""
    if not all(name.startswith(prefix) for name in named):
        return named
    return {name.removeprefix(prefix): array for name, array in named.items()}
