"""Checksums of arrays that may lie cut over the devices of many hosts.

Each number is mixed with its place, and the results are added up, so that the sum is
that of the whole array however it is cut, and no host needs to see all of it. For a
given place the mixing is one to one: a change of one 32-bit word always changes the
sum, any other change all but once in 2^64. They find accidents, not forgeries.
"""

from __future__ import annotations

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
    sums = jax.device_get([_sums(jnp.asarray(leaf)) for _, leaf in leaves])
    return {
        path_text(path): "".join(f"{int(word):08x}" for word in pair)
        for (path, _), pair in zip(leaves, sums, strict=True)
    }


@jax.jit
def _sums(a: Array) -> Array:
    words = _words(a)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * np.uint32(size & 0xFFFFFFFF)
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    first = _mixed(words + _mixed(place))
    second = _mixed(first + np.uint32(0x9E3779B9))
    return jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])


def _words(a: Array) -> Array:
    """The bits of an array as 32-bit words, its shape kept but for a last axis."""
    if a.dtype == jnp.bool_:
        return a.astype(jnp.uint32)
    size = a.dtype.itemsize
    if size >= 4:
        return jax.lax.bitcast_convert_type(a, jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}[size]
    return jax.lax.bitcast_convert_type(a, unsigned).astype(jnp.uint32)


def _mixed(h: Array) -> Array:
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
