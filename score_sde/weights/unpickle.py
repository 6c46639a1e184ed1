"""Pickles read as data: no class is imported, no function of the file's choice called.

A pickle is a program for a stack machine, which Python's own reader runs, calling what
the file names. Here it is only parsed: what it would import must be on the list of
`permitted`, and becomes an inert `Record`, or a `Strided`
array. Everything else is refused by name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any

from score_sde.types import UserError
from score_sde.weights.permitted import CONTAINERS, permitted
from score_sde.weights.records import Global, Record

LoadBytes = Callable[[bytes], Any]
LoadStorage = Callable[[tuple[Any, ...]], Any]


def parse(
    stream: IO[bytes],
    *,
    load_storage: LoadStorage | None = None,
    load_bytes: LoadBytes | None = None,
) -> Any:
    """The next pickle of a stream, as dicts, lists, numbers, records and tensors.

    Args:
        stream: the pickle begins where it stands.
        load_storage: function of a persistent id.
        load_bytes: function of the bytes of a file in a file.

    Raises:
        UserError: names what was refused.
        ValueError: for a damaged stream.
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
    """A place on the stack at which the items of a container begin."""


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
        """Carry out one instruction of the pickle."""
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in TUPLES:
            self._make_tuple(TUPLES[name])
        elif name in FROM_MARK:
            stack.append(FROM_MARK[name](self._items()))
        elif not (
            self._move(name)
            or self._remember(name, argument)
            or self._fill_container(name)
            or self._call(name, argument)
        ):
            raise UserError(f"refused: the pickle's instruction {name}.")

    def _make_tuple(self, count: int) -> None:
        stack = self.stack
        if len(stack) < count:
            raise IndexError("an empty stack")
        parts = tuple(stack[len(stack) - count :])
        del stack[len(stack) - count :]
        stack.append(parts)

    def _move(self, name: str) -> bool:
        """Carry out an instruction about the stack alone; False if it is none."""
        stack = self.stack
        if name == "MARK":
            stack.append(_Mark)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._items()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            return False
        return True

    def _remember(self, name: str, argument: Any) -> bool:
        """Carry out an instruction about the memo; False if it is none."""
        if name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        else:
            return False
        return True

    def _fill_container(self, name: str) -> bool:
        """Carry out an instruction that adds to a container; False if it is none."""
        stack = self.stack
        if name == "APPEND":
            items = [stack.pop()]
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            items = [key, value]
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            items = self._items()
        else:
            return False
        _fill(stack[-1], items)
        return True

    def _call(self, name: str, argument: Any) -> bool:
        """Carry out an instruction that imports, calls or sets; False if it is none."""
        stack = self.stack
        if name == "GLOBAL":
            stack.append(permitted(Global(*argument.split(" ", 1))))
        elif name == "INST":
            kind = permitted(Global(*argument.split(" ", 1)))
            stack.append(self._make(kind, tuple(self._items())))
        elif name == "STACK_GLOBAL":
            word = stack.pop()
            stack.append(permitted(Global(stack.pop(), word)))
        elif name == "OBJ":
            kind, *arguments = self._items()
            stack.append(self._make(kind, tuple(arguments)))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if name == "NEWOBJ_EX":
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
            return False
        return True

    def _items(self) -> list[Any]:
        """Take the items above the last mark off the stack, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _Mark:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _make(self, kind: Any, arguments: tuple[Any, ...]) -> Any:
        """Make what stands in for the result of a call."""
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
