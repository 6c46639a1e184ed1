"""Attention: what each query reads from all values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp

from score_sde.arrays import wide
from score_sde.types import Array

IMPLEMENTATIONS = ("xla", "cudnn")

_blind: ContextVar[list[int] | None] = ContextVar("blind", default=None)


@contextmanager
def blind() -> Iterator[list[int]]:
    """Let each position attend to itself alone, while functions are traced.

    That is perturbed-attention guidance's worse model (Ahn et al. 2024): the matrix of
    weights becomes the identity. Attention to other tokens is left as it is.

    Yields:
        A list of one number, how many times attention was met so far.
    """
    count = [0]
    token = _blind.set(count)
    try:
        yield count
    finally:
        _blind.reset(token)


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    implementation: str = "xla",
) -> Array:
    """softmax(q k^T / sqrt(size)) v per head, the softmax in float32 at least.

    Args:
        q: queries, [batch, queries, heads, size].
        k: keys, [batch, keys, heads, size].
        v: values, shaped like the keys.
        mask: bool [batch, keys], False for a key that nobody reads.
        implementation: 'cudnn' for the fused kernel of NVIDIA where it exists (see
            `fits_cudnn`) and 'xla' elsewhere. Only 'xla' can be differentiated
            forwards, as likelihoods need.
    """
    count = _blind.get()
    if count is not None and mask is None and q.shape == k.shape:
        count[0] += 1
        return v
    if implementation == "cudnn" and mask is None and fits_cudnn(q):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    dtype = wide(v.dtype)
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=dtype)
    logits = logits * (1 / math.sqrt(q.shape[-1]))
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v)


def attend_to_self(
    qkv: Array, num_heads: int, *, by_head: bool = False, implementation: str = "xla"
) -> Array:
    """Attention of positions to each other: [batch, length, channels].

    Args:
        qkv: queries, keys and values, [batch, length, 3 channels].
        num_heads: number of heads, which divides the channels.
        by_head: see `split_heads`.
        implementation: see `attend`.
    """
    q, k, v = split_heads(qkv, num_heads, by_head=by_head)
    h = attend(q, k, v, implementation=implementation)
    return h.reshape(*h.shape[:2], -1)


def split_heads(
    qkv: Array, num_heads: int, *, by_head: bool = False
) -> tuple[Array, Array, Array]:
    """Split channels into queries, keys and values, [batch, length, heads, size] each.

    Args:
        qkv: all three, [batch, length, 3 channels].
        num_heads: number of heads, which divides the channels.
        by_head: whether the three of a head follow each other; otherwise the queries of
            all heads come first, then the keys, then the values.
    """
    batch, length, channels = qkv.shape
    size = channels // (3 * num_heads)
    split = (num_heads, 3, size) if by_head else (3, num_heads, size)
    parts = qkv.reshape(batch, length, *split)
    q, k, v = jnp.moveaxis(parts, 3 if by_head else 2, 0)
    return q, k, v


def fits_cudnn(q: Array, backend: str | None = None) -> bool:
    """Whether cuDNN has a kernel: half precision, heads of 8, 16, ..., 128, on a GPU.

    Args:
        q: the queries.
        backend: that of JAX; None for the default.
    """
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return half and fits and (backend or jax.default_backend()) == "gpu"
