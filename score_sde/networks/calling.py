"""Calls of modules of Flax, and the state that these may not keep."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from score_sde.types import UserError


def call_options(module: Any, *, deterministic: bool) -> dict[str, Any]:
    """The keyword `deterministic` for the call of a module that takes it."""
    parameters = inspect.signature(type(module).__call__).parameters
    return {"deterministic": deterministic} if "deterministic" in parameters else {}


def reject_state(module: Any, names: Sequence[str]) -> None:
    """Refuse a module that keeps anything but parameters.

    Args:
        module: the module.
        names: of its collections, or variables, that are not parameters.

    Raises:
        UserError: if there are any.
    """
    if names:
        raise UserError(
            f"{type(module).__name__} keeps state that is not parameters: "
            f"{', '.join(sorted(names))}. Averages over a batch would make an example "
            "depend on the others of its batch, and nothing but parameters is saved; "
            "use GroupNorm or LayerNorm in place of BatchNorm."
        )
