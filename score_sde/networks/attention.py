"""Attention: what each query reads from all values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from score_sde.types import Array


def attend(q: Array, k: Array, v: Array, *, mask: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(size)) v per head, the softmax in float32 at least.

    Args: `q`, [batch, queries, heads, size]; `k` and `v`, [batch, keys, heads, size];
    `mask`, bool [batch, keys], False for a key that nobody reads.
    """
    wide = v.dtype if v.dtype.itemsize > 4 else jnp.float32
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=wide)
    logits = logits / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(wide).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v)
