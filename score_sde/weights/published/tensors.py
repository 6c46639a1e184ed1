"""Tensors of a published weight file: their names, and their layout here and there.

A table has one `Tensor` for each entry of the published state dict, in its order, so
that a list of parameters without names can be read too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np


class Layout(NamedTuple):
    """The order of axes of a published tensor: two functions that undo each other."""

    to_here: Callable[[np.ndarray], np.ndarray]
    to_published: Callable[[np.ndarray], np.ndarray]


AS_IS = Layout(np.asarray, np.asarray)
CONV = Layout(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
"""Convolution: (out, in, height, width) there, (height, width, in, out) here."""
LINEAR = Layout(np.transpose, np.transpose)
"""Linear map: (out, in) there, (in, out) here."""
POINTWISE = Layout(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
"""1x1 convolution there, linear map here."""
POINTWISE_1D = Layout(lambda a: a[:, :, 0].T, lambda a: a.T[:, :, None])
"""Convolution of width 1 over a sequence there, linear map here."""


class Tensor(NamedTuple):
    """One entry of a published state dict.

    `path` leads to the parameter in the pytree here. For an entry that no parameter
    holds, such as the taps of a resampling filter, it is empty and `value` says what
    the entry must be. A `frozen` entry is not trained, so that lists of trained
    parameters lack it. An `unused` entry is not needed: a file may hold any other value
    there, and under all names that begin like one that ends in a star. `part` is (i, n)
    for the i-th of n equal parts of the parameter's last axis.
    """

    name: str
    path: tuple[str, ...]
    layout: Layout = AS_IS
    value: np.ndarray | None = None
    frozen: bool = False
    unused: bool = False
    part: tuple[int, int] | None = None


def linear(name: str, *path: str, layout: Layout = LINEAR) -> list[Tensor]:
    """Entries for weight and bias of a linear map or, by its layout, a convolution."""
    return [
        Tensor(f"{name}.weight", (*path, "kernel"), layout),
        Tensor(f"{name}.bias", (*path, "bias")),
    ]


def norm(name: str, *path: str) -> list[Tensor]:
    """Entries for weight and bias of a norm."""
    return [
        Tensor(f"{name}.weight", (*path, "scale")),
        Tensor(f"{name}.bias", (*path, "bias")),
    ]


def leaf_of(params: Any, tensor: Tensor) -> Any:
    """The array, or the shape of one, that an entry holds, in the layout here."""
    leaf = params
    for word in tensor.path:
        leaf = leaf[word]
    if tensor.part is None:
        return leaf
    index, count = tensor.part
    size = leaf.shape[-1] // count
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((*leaf.shape[:-1], size), leaf.dtype)
    return leaf[..., index * size : (index + 1) * size]


def params_of(arrays: Iterable[tuple[Tensor, np.ndarray]]) -> Any:
    """The pytree of parameters from the arrays of its entries, in the layout here."""
    parts: dict[tuple[str, ...], dict[int, np.ndarray]] = {}
    for tensor, array in arrays:
        if tensor.path:
            index = tensor.part[0] if tensor.part else 0
            parts.setdefault(tensor.path, {})[index] = array
    params: dict[str, Any] = {}
    for path, arrays_of in parts.items():
        node = params
        for word in path[:-1]:
            node = node.setdefault(word, {})
        ordered = [arrays_of[i] for i in sorted(arrays_of)]
        node[path[-1]] = (
            ordered[0] if len(ordered) == 1 else np.concatenate(ordered, -1)
        )
    return params


def own_tensors(params: Any) -> tuple[Tensor, ...]:
    """The names and layouts that parameters have here, joined by dots."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [tuple(str(entry.key) for entry in path) for path, _ in leaves]
    return tuple(Tensor(".".join(path), path) for path in paths)


def out(norm_name: str, conv_name: str, *, prefix: str = "out") -> list[Tensor]:
    """Entries of the norm and the convolution that end a network."""
    return [
        *norm(norm_name, f"{prefix}_norm"),
        *linear(conv_name, f"{prefix}_conv", layout=CONV),
    ]


def matrix(name: str, *path: str) -> Tensor:
    """Entry of a linear map without bias."""
    return Tensor(f"{name}.weight", (*path, "kernel"), LINEAR)
