"""Checksums of arrays that may lie cut over the devices of many hosts.

Each number is mixed with its place, and the results are added up, so that the sum is
that of the whole array however it is cut, and no host needs to see all of it. For a
given place the mixing is one to one: a change of one 32-bit word always changes the
sum, any other change all but once in 2^64. They find accidents, not forgeries.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.types import Array


def checksums(tree: Any) -> dict[str, str]:
    """Path -> checksum of each array of a pytree, 16 hexadecimal digits.

    A collective, if the arrays lie on several hosts.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get([_sums_of(leaf) for _, leaf in leaves])
    return {
        path_text(path): "".join(f"{int(word):08x}" for word in pair)
        for (path, _), pair in zip(leaves, sums, strict=True)
    }


def digest(tree: Any) -> str:
    """One checksum of all arrays of a pytree and of their places in it."""
    text = json.dumps(checksums(tree), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sums_of(a: Any) -> Any:
    """By NumPy where the memory is the host's: XLA would compile for every shape."""
    if isinstance(a, jax.Array):
        on_cpu = all(device.platform == "cpu" for device in a.devices())
        if not (on_cpu and a.is_fully_addressable):
            return _sums_on_device(a)
    flat = np.ascontiguousarray(a).reshape(-1)
    if flat.dtype.itemsize < 4:
        flat = flat.view(f"u{flat.dtype.itemsize}").astype(np.uint32)
    words = flat.view(np.uint32)
    return np.stack(_sums(words, np.arange(words.size, dtype=np.uint32)))


@jax.jit
def _sums_on_device(a: Array) -> Array:
    if a.dtype == jnp.bool_:
        a = a.astype(jnp.uint8)
    if a.dtype.itemsize < 4:
        unsigned = {1: jnp.uint8, 2: jnp.uint16}[a.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(a, unsigned).astype(jnp.uint32)
    else:
        words = jax.lax.bitcast_convert_type(a, jnp.uint32)
    # The place in the array laid flat, without laying it flat: it may lie in pieces.
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * np.uint32(size & 0xFFFFFFFF)
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.stack(_sums(words, place))


def _sums(words: Any, place: Any) -> list[Any]:
    first = _mixed(words + _mixed(place))
    second = _mixed(first + np.uint32(0x9E3779B9))
    return [h.sum(dtype=np.uint32) for h in (first, second)]


def _mixed(h: Any) -> Any:
    """Every bit depends on every bit, one to one (the finaliser of MurmurHash3)."""
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def path_text(path: tuple[Any, ...]) -> str:
    """The path of an array in a pytree, with dots; containers of any kind alike."""
    return ".".join(map(_word, path))


def _word(entry: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)
