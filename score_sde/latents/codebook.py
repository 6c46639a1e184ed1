"""Vector quantisation: the nearest row of a codebook, and how the codebook is learned.

    q = e[k], k = argmin |z - e[k]|^2,      straight-through: z + sg(q - z)

The codebook follows its gradient (van den Oord et al. 2017, eq. 3), or a moving average
of the latents that chose each row (ibid., appendix A.1). How often rows are chosen, and
latents that may replace rows that are not, are statistics of the step: parameters whose
"gradient" is the way to their next value, see `statistics_term`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import mean_over_data, place_in_batch
from score_sde.types import Array, Key

DECAY = 0.99
"""Of the moving averages of counts and sums."""
SMOOTHING = 1e-5
"""Added to every count, so that a row that nothing chose keeps a finite mean."""


def nearest(z: Array, codebook: Array) -> Array:
    """The row of the codebook [codes, dims] nearest to each latent [..., dims]: int."""
    products = jnp.einsum("...d,kd->...k", z, codebook, precision="highest")
    lengths = (codebook**2).sum(-1)
    lengths = lengths.reshape((1,) * (products.ndim - 1) + lengths.shape)
    return jnp.argmin(lengths - 2 * products, axis=-1).astype(jnp.int32)


def straight_through(z: Array, quantised: Array) -> Array:
    """The quantised latents, with the gradient of the latents."""
    return z + jax.lax.stop_gradient(quantised - z)


def codebook_loss(
    z: Array, quantised: Array, *, commitment: float, legacy: bool = False
) -> Array:
    """The squared errors that train codebook and encoder, a mean over data: [batch].

    mean (q - sg z)^2 moves the codebook, mean (sg q - z)^2 the encoder.

    Args:
        z: latents [batch, *dims].
        quantised: the rows that they chose, alike.
        commitment: weight of the encoder's term, beta; 0.25 in the paper.
        legacy: whether beta weights the codebook's term instead, as the published
            models of Esser et al. and Rombach et al. were trained. The value is the
            same; the gradients are not.
    """
    stop = jax.lax.stop_gradient
    of_codebook = mean_over_data((quantised - stop(z)) ** 2)
    of_encoder = mean_over_data((stop(quantised) - z) ** 2)
    if legacy:
        return of_encoder + commitment * of_codebook
    return of_codebook + commitment * of_encoder


def statistics_term(old: Any, new: Any) -> Array:
    """A term of value 0 whose gradient at the statistics `old` is `old - new`.

    An update by plain gradient descent at rate 1 then makes them `new`. A mean of such
    terms over parts of a batch makes them the mean of the parts' values, however the
    batch is cut over devices.
    """
    stop = jax.lax.stop_gradient
    terms = jax.tree.map(lambda a, b: ((a - stop(a)) * stop(a - b)).sum(), old, new)
    return jnp.stack(jax.tree.leaves(terms)).sum()


def next_statistics(
    key: Key, old: Mapping[str, Array], z: Array, codes: Array
) -> dict[str, Array]:
    """Moving averages after this batch, and a random latent of it for every row.

    Of a part of a batch, the mean of what its parts return is that of the whole.

    Args:
        key: of the step, the same for every part of its batch.
        old: "usage" [codes], "candidates" [codes, dims], and "sums" [codes, dims] if
            the codebook follows them.
        z: latents [batch, *positions, dims].
        codes: the rows that they chose, [batch, *positions].
    """
    z, rows = jax.lax.stop_gradient(z), codes.reshape(-1)
    part = place_in_batch(len(z))
    share = part.total / len(z)  # of a part: what it has counts for all parts
    flat = z.reshape(len(rows), z.shape[-1])
    count = len(old["usage"])

    def moved(before: Array, found: Array) -> Array:
        return DECAY * before + (1 - DECAY) * share * found.astype(before.dtype)

    ones = jnp.ones(len(rows), flat.dtype)
    new = {
        "usage": moved(
            old["usage"], jax.ops.segment_sum(ones, rows, num_segments=count)
        )
    }
    if "sums" in old:
        sums = jax.ops.segment_sum(flat, rows, num_segments=count)
        new["sums"] = moved(old["sums"], sums)
    key_example, key_place = jr.split(key)
    chosen = jr.randint(key_example, (count,), 0, part.total)
    places = flat.reshape(len(z), -1, z.shape[-1])
    place = jr.randint(key_place, (count,), 0, places.shape[1])
    is_here = chosen[:, None] == part.numbers[None]
    drawn = places[jnp.argmax(is_here, axis=1), place]
    drawn = jnp.where(is_here.any(1)[:, None], drawn, 0)
    new["candidates"] = (share * drawn).astype(old["candidates"].dtype)
    return new


def revived(
    statistics: Mapping[str, Array], embedding: Array, *, dead_share: float
) -> tuple[dict[str, Array], Array]:
    """Replace dead rows of the codebook by latents of the last batch.

    A revived row counts as used as often as the average one, until it is not.

    Args:
        statistics: see `next_statistics`.
        embedding: the codebook [codes, dims].
        dead_share: a row is dead if it is chosen less often than this share of the
            average row; 0 for never.

    Returns:
        (statistics, codebook); where there are sums, the codebook is their mean.
    """
    usage, drawn = statistics["usage"], statistics["candidates"]
    average = usage.mean()
    is_dead = usage < dead_share * average
    # Before the first batch there are no candidates.
    is_dead &= (drawn != 0).any(1)
    found = {**statistics, "usage": jnp.where(is_dead, average, usage)}
    if "sums" not in statistics:
        return found, jnp.where(is_dead[:, None], drawn, embedding)
    sums = jnp.where(is_dead[:, None], average * drawn, statistics["sums"])
    return {**found, "sums": sums}, mean_rows(found["usage"], sums)


def mean_rows(usage: Array, sums: Array) -> Array:
    """The codebook of moving averages: sums over counts with Laplace smoothing."""
    total = usage.sum()
    share = (usage + SMOOTHING) / (total + len(usage) * SMOOTHING)
    return sums / (share * total)[:, None]


def perplexity(counts: Array) -> Array:
    """exp of the entropy of the codes' shares: how many are used evenly, in effect."""
    shares = counts / counts.sum()
    safe = jnp.where(shares > 0, shares, 1)
    return jnp.exp(-(shares * jnp.log(safe)).sum())
