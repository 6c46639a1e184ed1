"""Pickles read as data: no class is imported, no function of the file's choice called.

A pickle is a program for a stack machine, which Python's own reader runs, calling what
the file names. Here it is only parsed: what it would import must be on the list of
tensors, containers and modules below, and becomes an inert `Record`, or a `Strided`
array. Everything else is refused by name.
"""

from __future__ import annotations

import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from score_sde.types import UserError


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
        """The tensor itself. Raises: ValueError if it is not inside its storage."""
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
"""Of torch's kinds of storage."""

LoadBytes = Callable[[bytes], Any]
LoadStorage = Callable[[tuple[Any, ...]], Any]


def parse(
    stream: IO[bytes],
    *,
    load_storage: LoadStorage | None = None,
    load_bytes: LoadBytes | None = None,
) -> Any:
    """The next pickle of a stream, as dicts, lists, numbers, records and tensors.

    Args: `load_storage`, given a persistent id; `load_bytes`, given a file in a file.
    Raises: UserError that names what was refused; ValueError for a damaged stream.
    """
    machine = _Machine(load_storage, load_bytes)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(f"a damaged pickle ({error})") from None
    raise ValueError("a pickle without an end")


class _Mark:
    """Where the items of a container begin on the stack."""


class _Machine:
    """The stack machine of pickles, without the means to do anything."""

    def __init__(
        self, load_storage: LoadStorage | None, load_bytes: LoadBytes | None
    ) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.load_storage = load_storage
        self.load_bytes = load_bytes

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name == "MARK":
            stack.append(_Mark)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._items()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in TUPLES:
            count = TUPLES[name]
            if len(stack) < count:
                raise IndexError("an empty stack")
            parts = tuple(stack[len(stack) - count :])
            del stack[len(stack) - count :]
            stack.append(parts)
        elif name in FROM_MARK:
            stack.append(FROM_MARK[name](self._items()))
        elif name == "APPEND":
            item = stack.pop()
            _fill(stack[-1], [item])
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _fill(stack[-1], [key, value])
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            items = self._items()
            _fill(stack[-1], items)
        elif name in ("GLOBAL", "INST"):
            stack.append(_permitted(Global(*argument.split(" ", 1))))
            if name == "INST":
                kind = stack.pop()
                stack.append(self._make(kind, tuple(self._items())))
        elif name == "STACK_GLOBAL":
            word = stack.pop()
            stack.append(_permitted(Global(stack.pop(), word)))
        elif name == "OBJ":
            kind, *arguments = self._items()
            stack.append(self._make(kind, tuple(arguments)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(self._make(stack.pop(), arguments))
        elif name == "NEWOBJ_EX":
            stack.pop()
            arguments = stack.pop()
            stack.append(self._make(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Record):
                stack[-1].state = state
        elif name == "BINPERSID" and self.load_storage is not None:
            stack.append(self.load_storage(stack.pop()))
        else:
            raise UserError(f"refused: the pickle's instruction {name}.")

    def _items(self) -> list[Any]:
        """What is above the last mark, which goes too."""
        at = len(self.stack) - 1
        while self.stack[at] is not _Mark:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _make(self, kind: Any, arguments: tuple[Any, ...]) -> Any:
        """What a call would give."""
        if not isinstance(kind, Global):
            raise UserError("refused: the pickle calls something that is no name.")
        name = str(kind)
        if name == "torch.storage._load_from_bytes" and self.load_bytes:
            return self.load_bytes(*arguments)
        if name in CONTAINERS:
            return CONTAINERS[name](*arguments)
        return Record(name, arguments)


def _fill(container: Any, items: list[Any]) -> None:
    if isinstance(container, list):
        container.extend(items)
    elif isinstance(container, set):
        container.update(items)
    elif isinstance(container, dict):
        container.update(zip(items[::2], items[1::2], strict=True))
    else:
        raise TypeError(f"items for a {type(container).__name__}")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


VALUES = frozenset(
    ["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT"]
    + ["BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"]
    + ["SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES"]
    + ["BINBYTES8", "BYTEARRAY8"]
)
"""Instructions that push their argument."""
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
FROM_MARK: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": _pairs,
    "FROZENSET": frozenset,
}


def _strided(
    storage: Storage, offset: int, shape: Any, strides: Any, *_: Any
) -> Strided:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor of no storage")
    return Strided(storage, offset, tuple(shape), tuple(strides))


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes, as old pickles spell them."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes as {encoding}")
    return text.encode("latin1")


def _persistent(meta: Any) -> Record:
    """EDM's objects, which carry the source of their class; it is left unread."""
    return Record(str(meta["class_name"]), (), meta["state"])


CONTAINERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda items=(): dict(items),
    "collections.defaultdict": lambda *_: {},
    "dnnlib.util.EasyDict": lambda items=(): dict(items),
    "builtins.set": lambda items=(): set(items),
    "__builtin__.set": lambda items=(): set(items),
    "builtins.frozenset": lambda items=(): frozenset(items),
    "__builtin__.frozenset": lambda items=(): frozenset(items),
    "_codecs.encode": _latin1,
    "torch.Size": lambda items=(): tuple(items),
    "torch._utils._rebuild_tensor": _strided,
    "torch._utils._rebuild_tensor_v2": _strided,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
}
"""What is made of a call; each makes plain values of plain values."""

BUILTINS, TYPES = ("builtins", "__builtin__"), ("dict", "float", "int", "list")
PATHS = ("pathlib", "pathlib._local")

INERT = frozenset(
    {
        "torch.device",
        "torch.storage._load_from_bytes",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.numeric._frombuffer",
        "numpy._core.numeric._frombuffer",
        "numpy.ndarray",
        "argparse.Namespace",
        "datetime.datetime",
        *(f"{module}.{name}" for module in BUILTINS for name in TYPES),
        *(f"{module}.{name}Path" for module in PATHS for name in ("Posix", "Windows")),
    }
)
"""Names that may stand in a pickle and of which nothing is made but a record."""

MODULES = ("torch.nn.modules.", "torch.nn.parallel.", "torch.optim.")
"""Where classes are of which objects in a file are records, too."""

TORCH_TYPES = frozenset(
    ["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64"]
    + ["uint8", "bool", "strided", "contiguous_format", "preserve_format"]
)


def _permitted(name: Global) -> Global:
    text = str(name)
    storage = name.module == "torch" and name.name in (*DTYPES, *TORCH_TYPES)
    module = name.module.startswith(MODULES)
    if text in CONTAINERS or text in INERT or storage or module:
        return name
    raise UserError(
        f"refused: the file wants to import {text!r}, which is no part of a tensor. "
        "Nothing was executed. A file of the state dict alone wants nothing else."
    )
