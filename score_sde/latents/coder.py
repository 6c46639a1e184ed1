"""The interface of autoencoders: encode, decode, and what training has between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from score_sde.latents.posterior import Posterior
from score_sde.types import Array, Params


class Bottleneck(NamedTuple):
    """Latents as training passes them to the decoder."""

    latents: Array
    """Drawn from the posterior, or quantised with a straight-through gradient."""
    penalty: Array
    """What the loss adds for them, [batch]: the weighted divergence, or the loss of the
    codebook. It has the gradients of the codebook's statistics."""


class Coder(NamedTuple):
    """The functions of an autoencoder; parameters are those of its network.

    Latents [batch, height, width, channels] are what a diffusion runs on: before any
    quantisation, which `decode` does first.
    """

    encode: Callable[..., Posterior]
    """(params, images, dropout_key=None) -> the posterior of their latents."""
    decode: Callable[[Params, Array], Array]
    """(params, latents) -> images from about -1 to 1, which nothing bounds."""
    bottleneck: Callable[..., Bottleneck]
    """(params, key, posterior, num_dims) -> what training decodes; num_dims is how many
    numbers an image has."""
    render: Callable[..., Array]
    """(params, latents of the bottleneck, dropout_key=None) -> images."""
    codes: Callable[[Params, Array], Array] | None
    """(params, latents) -> codes [batch, height, width]; None without a codebook."""
    num_codes: int
    """Size of the codebook; 0 without one."""
    factor: int
    """By how much it divides the sides of an image."""
    last_layer: tuple[str, ...]
    """The path of the kernel of the decoder's last convolution."""
    frozen: bool = False
    """Whether the encoder is another program's network, which is not trained."""


def replaced(params: Any, path: tuple[str, ...], leaf: Array) -> Any:
    """The parameters with another array at a path."""
    if not path:
        return leaf
    head, *rest = path
    return {**params, head: replaced(params[head], tuple(rest), leaf)}


def leaf_at(params: Any, path: tuple[str, ...]) -> Array:
    """The parameter at a path."""
    for word in path:
        params = params[word]
    return params
