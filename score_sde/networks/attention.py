"""Attention: what each query reads from all values."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from score_sde.types import Array

IMPLEMENTATIONS = ("xla", "cudnn")


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    implementation: str = "xla",
) -> Array:
    """softmax(q k^T / sqrt(size)) v per head, the softmax in float32 at least.

    Args: `q`, [batch, queries, heads, size]; `k` and `v`, [batch, keys, heads, size];
    `mask`, bool [batch, keys], False for a key that nobody reads; `implementation`,
    'cudnn' for the fused kernel of NVIDIA where it exists (see `fits_cudnn`) and 'xla'
    elsewhere. Only 'xla' can be differentiated forwards, as likelihoods need.
    """
    if implementation == "cudnn" and mask is None and fits_cudnn(q):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    dtype = wide(v.dtype)
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=dtype)
    logits = logits / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v)


def wide(dtype: Any) -> Any:
    """Of norms and softmaxes of this type: float32 at least."""
    return dtype if jnp.dtype(dtype).itemsize > 4 else jnp.dtype(jnp.float32)


def fits_cudnn(q: Array, backend: str | None = None) -> bool:
    """Whether cuDNN has a kernel: half precision, heads of 8, 16, ..., 128, on a GPU.

    Args: `backend` of JAX; None for the default.
    """
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return half and fits and (backend or jax.default_backend()) == "gpu"
