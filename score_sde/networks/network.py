"""What the rest of the library knows of a network: two pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.types import Array, Key

Params = Any


class Network(NamedTuple):
    """Parameters are a pytree of arrays; nothing else is state.

    apply(params, x, noise, cond=None, *, dropout_key=None) maps x, [batch, *dims], and
    noise, [batch], to an array like x. Without a dropout key it is deterministic.

    cond is None or a dict with "label", int [batch], -1 for none, or "vector",
    [batch, dims].
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Array]


def from_linen(module: nn.Module, shape: tuple[int, ...], cond: Any = None) -> Network:
    """A Network from a Linen module called as module(x, noise, cond, deterministic).

    Args: `shape` of one example; `cond`, an example of the condition, batch of one.
    """

    def init(key: Key) -> Params:
        x, noise = jnp.zeros((1, *shape), jnp.float32), jnp.zeros(1, jnp.float32)
        # Compiled, since op-by-op initialisation takes seconds for a deep network.
        build = jax.jit(lambda key: module.init(key, x, noise, cond))
        return build(key)["params"]

    def apply(
        params: Params,
        x: Array,
        noise: Array,
        cond: Any = None,
        *,
        dropout_key: Key | None = None,
    ) -> Any:
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        return module.apply(
            {"params": params}, x, noise, cond, dropout_key is None, rngs=rngs
        )

    return Network(init, apply)


def count_parameters(params: Params) -> int:
    """Number of scalars in a pytree of arrays, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
