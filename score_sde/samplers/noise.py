"""Sources of a sampler's noise: keys, given arrays, or a Brownian path."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import (
    as_data,
    example_keys,
    expand_like,
    in_one_piece,
    per_example,
    where_example,
)
from score_sde.fields import pytree, static
from score_sde.rules import Positive, at_least
from score_sde.samplers.steps import Draw
from score_sde.types import Array, Key, Scalar


def from_key(key: Key | None, x: Array) -> Draw:
    """Make independent draws; example i of draw k is a function of (key, k, i)."""
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
    """Make draws of given noise, [draws, batch, *dims]: the k-th is its k-th entry.

    Past the end they are NaN, but 0 for a step to sigma = 0: there a draw is asked for
    only to be multiplied by zero.

    Raises: ValueError for noise of another shape.
    """
    bank = as_data(bank, "noise")
    if bank.ndim != x.ndim + 1 or bank.shape[1:] != x.shape:
        raise ValueError(
            f"noise must be draws like x, [draws, {', '.join(map(str, x.shape))}], got "
            f"shape {bank.shape}."
        )
    examples = jnp.arange(x.shape[0])

    def draw(
        k: Scalar, sigma: Scalar, sigma_next: Scalar, via: Scalar | None = None
    ) -> Array:
        del sigma, via
        given = bank[jnp.minimum(k, len(bank) - 1), examples].astype(x.dtype)
        beyond = jnp.broadcast_to(jnp.asarray(k) >= len(bank), x.shape[:1])
        absent = jnp.where(jnp.asarray(sigma_next) > 0, jnp.nan, 0.0).astype(x.dtype)
        absent = jnp.broadcast_to(expand_like(absent, x), x.shape)
        return where_example(beyond, absent, given)

    return draw


@pytree
class BrownianPath:
    """One Brownian path W(sigma) per example, 0 <= sigma <= sigma_max, to any detail.

    A draw for the move from sigma to sigma_next is its increment,
    (W(sigma) - W(sigma_next)) / sqrt(sigma - sigma_next), so that a finer grid meets
    the same path and converges to the same sample. Example i is a function of (key, i).

    A value of W is found by halving [0, sigma_max] `depth` times: as many draws for
    each end of a step. (Diffrax has such a tree, whose checks of its bounds hung in
    loops on a CPU of two threads; jax 0.10.2, diffrax 0.7.2.)
    """

    key: Key
    """One for all, or one per example, [batch]."""
    sigma_max: Annotated[Scalar, Positive] = 80.0
    """The level where the path begins."""
    depth: Annotated[int, at_least(1)] = static(default=24)
    """The number of halvings."""

    def like(self, x: Array) -> Draw:
        """Make draws shaped like x."""
        keys = example_keys(self.key, x.shape[0])
        sigma_max = jnp.asarray(self.sigma_max, x.dtype)

        def increment(key: Key, start: Array, end: Array) -> Array:
            def value(at: Array) -> Array:
                return brownian(key, at, x.shape[1:], self.depth)

            moves = start < end
            gap = jnp.sqrt(jnp.where(moves, end - start, 1))
            return jnp.where(moves, value(end) - value(start), 0) / gap

        def draw(
            k: Scalar, sigma: Scalar, sigma_next: Scalar, via: Scalar | None = None
        ) -> Array:
            del k, via
            # A level that rounding put above sigma_max is sigma_max.
            ends = (
                jnp.broadcast_to(jnp.clip(jnp.asarray(s, x.dtype) / sigma_max, 0, 1), n)
                for s in (sigma_next, sigma)
            )
            return jax.vmap(increment)(keys, *ends)

        n = x.shape[:1]
        return draw


def brownian(key: Key, at: Array, shape: tuple[int, ...], depth: int) -> Array:
    """Evaluate W(at), 0 <= at <= 1, of the path that the key means; W(0) = 0.

    Halfway between two known values lies their mean and a normal of a quarter of the
    interval's variance (Lévy's construction). Below the resolution 2^-depth the path
    is a straight line.
    """

    def halve(level: Array, now: tuple[Any, ...]) -> tuple[Any, ...]:
        key, at, low, high = now
        here, *halves = jr.split(key, 3)
        std = 2.0 ** (-0.5 * level.astype(at.dtype) - 1)
        middle = 0.5 * (low + high) + std * in_one_piece(
            jr.normal, here, shape, at.dtype
        )
        right = at >= 0.5
        low, high = jnp.where(right, middle, low), jnp.where(right, high, middle)
        key = jnp.where(right, *halves[::-1])
        return key, jnp.where(right, 2 * at - 1, 2 * at), low, high

    end, inside = jr.split(key)
    last = in_one_piece(jr.normal, end, shape, at.dtype)
    start = inside, at, jnp.zeros_like(last), last
    _, rest, low, high = jax.lax.fori_loop(0, depth, halve, start)
    return low + rest * (high - low)
