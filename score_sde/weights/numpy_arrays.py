"""Arrays as numpy pickles them, from the records that `unpickle` makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from score_sde.weights.records import Record

EMPTY = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
"""Names of arrays filled by their state: version, shape, dtype, by columns, bytes."""
FILLED = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
"""Names of arrays made of their arguments: bytes, dtype, shape, order."""


def is_array(value: Any) -> bool:
    """Whether a value is the record of an array."""
    return isinstance(value, Record) and value.kind in (*EMPTY, *FILLED)


def to_array(record: Record) -> np.ndarray:
    """Make the array of a record.

    Raises: ValueError if it is none of numbers.
    """
    try:
        if record.kind in EMPTY:
            _, shape, dtype, by_columns, data = record.state
            order = "F" if by_columns else "C"
        else:
            data, dtype, shape, order = record.arguments
        array = np.frombuffer(data, _dtype_of(dtype))
        return array.reshape(shape, order="F" if order == "F" else "C")
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"an array that can't be read ({error})") from None


def _dtype_of(record: Record) -> np.dtype:
    big = record.state[1] == ">"
    return np.dtype(record.arguments[0]).newbyteorder(">" if big else "=")
