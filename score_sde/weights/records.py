"""Objects of a weight file as plain data: names, records, and views of storages."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np


class Global(NamedTuple):
    """A name that the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False)
class Record:
    """An object of a class that is not here: its name, arguments and state."""

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclasses.dataclass(eq=False)
class Storage:
    """The memory of a tensor, which some formats bring after the pickle."""

    dtype: np.dtype
    size: int
    array: np.ndarray | None = None


class Strided(NamedTuple):
    """A tensor: a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Copy the tensor out of its storage.

        Raises: ValueError if it is not inside.
        """
        memory = self.storage.array
        numbers = (self.offset, *self.shape, *self.strides)
        whole = all(isinstance(n, int) and n >= 0 for n in numbers)
        if memory is None or not whole or len(self.shape) != len(self.strides):
            raise ValueError("a tensor without memory, or of no shape")
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        size = math.prod(self.shape)
        if size > len(memory) or (size and last >= len(memory)):
            raise ValueError(f"a tensor of shape {self.shape} outside its memory")
        if not size:
            return np.zeros(self.shape, memory.dtype)
        view = np.lib.stride_tricks.as_strided(
            memory[self.offset :],
            self.shape,
            tuple(step * memory.itemsize for step in self.strides),
            writeable=False,
        )
        return np.ascontiguousarray(view).reshape(self.shape)


DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
"""dtype of each kind of storage of torch."""
