"""Where the noise of a sampler comes from: keys, given arrays, or a Brownian path."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import example_keys, expand_like, per_example
from score_sde.samplers.steps import Draw
from score_sde.types import Array, Key, Scalar, pytree, static


def from_key(key: Key | None, x: Array) -> Draw:
    """Independent draws; example i of draw k is a function of (key, k, i)."""
    keys = None if key is None else example_keys(key, x.shape[0])

    def normal(k: Scalar) -> Array:
        assert keys is not None  # `sample` asks for a key where noise is drawn
        each = jnp.broadcast_to(jnp.asarray(k), x.shape[:1])
        return per_example(jr.normal, jax.vmap(jr.fold_in)(keys, each), x)

    def draw(
        k: Scalar, sigma: Scalar, sigma_next: Scalar, via: Scalar | None = None
    ) -> Array:
        noise = normal(k)
        if via is None:
            return noise
        # The part of the path that draw k - 1 was, and the rest of it.
        share = expand_like((sigma - via) / (sigma - sigma_next), x)
        return jnp.sqrt(share) * normal(k - 1) + jnp.sqrt(1 - share) * noise

    return draw


def from_bank(bank: Any, x: Array) -> Draw:
    """The k-th entry of given noise, [draws, batch, *dims].

    Past the end the last one is repeated: the last step of a scan asks for a draw only
    to multiply it by zero.
    """
    bank = jnp.asarray(bank)
    if bank.shape[1:] != x.shape:
        raise ValueError(f"noise must be [draws, {x.shape}], got shape {bank.shape}.")
    examples = jnp.arange(x.shape[0])

    def draw(
        k: Scalar, sigma: Scalar, sigma_next: Scalar, via: Scalar | None = None
    ) -> Array:
        del sigma, sigma_next, via
        return bank[jnp.minimum(k, len(bank) - 1), examples].astype(x.dtype)

    return draw


@pytree
class BrownianPath:
    """One Brownian path W(sigma) per example, 0 <= sigma <= sigma_max, to any detail.

    A draw for the move from sigma to sigma_next is its increment,
    (W(sigma) - W(sigma_next)) / sqrt(sigma - sigma_next), so that a finer grid meets
    the same path and converges to the same sample. Example i is a function of (key, i).

    A value of W is found by halving [0, sigma_max] down to `tol` sigma_max, by diffrax:
    some 20 draws for each end of a step.
    """

    key: Key
    """One for all, or one per example, [batch]."""
    sigma_max: Scalar = 80.0
    tol: float = static(default=2.0**-22)

    def like(self, x: Array) -> Draw:
        """Draws shaped like x."""
        import diffrax

        shape = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
        keys = example_keys(self.key, x.shape[0])
        # The clock of the tree is sigma / sigma_max.
        sigma_max = jnp.asarray(self.sigma_max, x.dtype)
        zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)

        def increment(key: Key, start: Array, end: Array) -> Array:
            tree = diffrax.VirtualBrownianTree(zero, one, self.tol, shape, key)
            moves = start < end
            gap = jnp.sqrt(jnp.where(moves, end - start, one))
            return tree.evaluate(jnp.where(moves, start, zero), end) / gap

        def draw(
            k: Scalar, sigma: Scalar, sigma_next: Scalar, via: Scalar | None = None
        ) -> Array:
            del k, via
            ends = (
                jnp.broadcast_to(jnp.asarray(s, x.dtype) / sigma_max, x.shape[:1])
                for s in (sigma_next, sigma)
            )
            return jax.vmap(increment)(keys, *ends)

        return draw
