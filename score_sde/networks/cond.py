"""Entries of a condition: required, refused, or seen as channels or in the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from score_sde.networks.network import Network
from score_sde.types import Array, Key, Params
from score_sde.wavelets import haar, inverse_haar


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


def over_pixels(
    network: Network, *, side: int, scale: Callable[[], float | Array]
) -> Network:
    """A network of the details of a wavelet step that works on the pixels they make.

    Details are a lattice that none of them shows by itself, and move by two pixels at
    once; pixels have levels, and are alike wherever they are. The means are scaled here
    as details come at the lowest noise.

    Args:
        network: of the pixels, told the means over blocks as cond["image"], both of
            twice the sides of details; behind its output is the divergence, if it was
            asked for.
        side: of the block of the whole image that a mean is over.
        scale: gives what a preconditioner multiplies details by at the lowest noise.
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
        coarse = (side * scale()) * cond["image"].astype(x.dtype)
        pixels, means = (inverse_haar(coarse, d) for d in (x, jnp.zeros_like(x)))
        told = {**cond, "image": means}
        out = network.apply(params, pixels, noise, told, dropout_key=dropout_key)
        own = haar(out[..., : coarse.shape[-1]])[1]
        divergence = haar(out[..., coarse.shape[-1] :])[0] / 2  # no channel, or one
        return jnp.concatenate([own, divergence], axis=-1)

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
