"""The names that a pickle may hold, and what stands in for calls of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from score_sde.types import UserError
from score_sde.weights.records import DTYPES, Global, Record, Storage, Strided


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
"""Functions that stand in for calls; each makes plain values of plain values."""

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
"""Further names that a pickle may hold; their objects become records."""

MODULES = ("torch.nn.modules.", "torch.nn.parallel.", "torch.optim.")
"""Modules of torch whose classes a pickle may name; their objects become records."""

TORCH_TYPES = frozenset(
    ["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64"]
    + ["uint8", "bool", "strided", "contiguous_format", "preserve_format"]
)


def permitted(name: Global) -> Global:
    """The name itself, if a pickle may hold it.

    Raises: UserError that names it if not.
    """
    text = str(name)
    storage = name.module == "torch" and name.name in (*DTYPES, *TORCH_TYPES)
    module = name.module.startswith(MODULES)
    if text in CONTAINERS or text in INERT or storage or module:
        return name
    raise UserError(
        f"refused: the file wants to import {text!r}, which is no part of a tensor. "
        "Nothing was executed. A file of the state dict alone wants nothing else."
    )
