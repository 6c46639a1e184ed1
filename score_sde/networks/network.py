"""What the rest of the library knows of a network: pure functions of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.types import Array, Key

Params = Any

FROZEN = ("freqs", "phases", "pos_embed")
"""What parameters that are never trained are called, wherever they are."""
FROZEN_MODULE = "frozen"
"""The same of a module, with all its parameters."""


def unchanged(params: Params) -> Params:
    """The parameters, of which any value is allowed."""
    return params


class Network(NamedTuple):
    """Parameters are a pytree of arrays; nothing else is state.

    apply(params, x, noise, cond=None, *, dropout_key=None) maps x, [batch, *dims], and
    noise, [batch], to an array like x. Without a dropout key it is deterministic. A
    network that also predicts variances has their channels after those of x.

    cond is None or a dict with what the network was built for: "label", int [batch], -1
    for none, "vector", [batch, dims], "augment", [batch, dims], how the example was
    augmented, which may be absent and is then zero, "tokens", [batch, length, dims],
    where "mask", bool [batch, length], is False for those that aren't there, or
    "image", of the sides of x.

    project(params) brings parameters back to where training keeps them, and
    log_variance(params, noise) is the network's own learned log of its loss, [batch].
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Array]
    project: Callable[[Params], Params] = unchanged
    log_variance: Callable[[Params, Array], Array] | None = None


def from_linen(module: nn.Module, shape: tuple[int, ...], cond: Any = None) -> Network:
    """A Network from a Linen module called as module(x, noise, cond, deterministic).

    The module's methods `project` and `log_variance`, if it has them, are taken over.

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

    return Network(
        init,
        apply,
        getattr(module, "project", unchanged),
        getattr(module, "log_variance", None),
    )


def is_frozen(path: Sequence[Any]) -> bool:
    """Whether the parameter at this path, of `jax.tree_util`, is never trained."""
    names = [getattr(entry, "key", None) for entry in path]
    return names[-1] in FROZEN or FROZEN_MODULE in names


def with_image(network: Network) -> Network:
    """A network that sees cond["image"] as further channels of x (Saharia et al. 2022).

    Args: `network`, built for the channels of both, x first; its output for those of x
    is what counts.
    """

    def apply(
        params: Params,
        x: Array,
        noise: Array,
        cond: Any = None,
        *,
        dropout_key: Key | None = None,
    ) -> Array:
        require_condition(cond, "image")
        rest = {k: v for k, v in cond.items() if k != "image"} or None
        both = jnp.concatenate([x, cond["image"].astype(x.dtype)], axis=-1)
        out = network.apply(params, both, noise, rest, dropout_key=dropout_key)
        return out[..., : x.shape[-1]]

    return network._replace(apply=apply)


def require_condition(cond: Any, name: str) -> None:
    """Raises: ValueError if cond lacks an entry that the network was built for."""
    if not isinstance(cond, dict) or name not in cond:
        raise ValueError(f"this network is conditional: it needs cond[{name!r}].")


def refuse_condition(cond: Any, name: str, option: str) -> None:
    """Raises: ValueError if cond has an entry that the network was built without."""
    if isinstance(cond, dict) and name in cond:
        raise ValueError(
            f"this network was made without {option}; it was given cond[{name!r}]."
        )


def count_parameters(params: Params) -> int:
    """Number of scalars in a pytree of arrays, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
