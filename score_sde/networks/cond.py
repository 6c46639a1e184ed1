"""Entries of a condition: required, refused, or seen as channels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_sde.networks.network import Network
from score_sde.types import Array, Key, Params


def with_image(network: Network) -> Network:
    """A network that sees cond["image"] as further channels of x (Saharia et al. 2022).

    Args:
        network: built for the channels of both, those of x first; of its output those
            of x count, and behind them the divergence, if it was asked for.
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
        both = beside_image(x, cond)
        out = network.apply(params, both, noise, rest, dropout_key=dropout_key)
        own = out[..., : x.shape[-1]]
        if not has_entry(cond, "divergence"):
            return own
        return jnp.concatenate([own, out[..., both.shape[-1] :]], axis=-1)

    return network._replace(apply=apply)


def beside_image(x: Array, cond: Any) -> Array:
    """The channels of x with those of cond["image"] behind them, if there is one.

    The picture is not scaled: a preconditioner acts on x before a network is called.
    """
    if not has_entry(cond, "image"):
        return x
    return jnp.concatenate([x, cond["image"].astype(x.dtype)], axis=-1)


def has_entry(cond: Any, name: str) -> bool:
    """Whether a condition has an entry of this name."""
    return isinstance(cond, dict) and name in cond


def require_condition(cond: Any, name: str) -> None:
    """Raises: ValueError if cond lacks an entry that the network was built for."""
    if not has_entry(cond, name):
        raise ValueError(f"this network is conditional: it needs cond[{name!r}].")


def refuse_condition(cond: Any, name: str, option: str) -> None:
    """Raises: ValueError if cond has an entry that the network was built without."""
    if has_entry(cond, name):
        raise ValueError(
            f"this network was made without {option}; it was given cond[{name!r}]."
        )
