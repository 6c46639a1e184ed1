"""Score matching without denoising: references for data of few dimensions."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from score_sde.arrays import example_keys, per_example, sum_over_data
from score_sde.types import Array, Key

ScoreOfX = Callable[[Array], Array]


def exact_score_matching(
    score: ScoreOfX, x: Float[Array, "batch dims"]
) -> Float[Array, " batch"]:
    """|s|^2 / 2 + trace of ds/dx, per example: [batch, dims] (Hyvarinen 2005, eq. 4).

    Its expectation is the squared error of the score up to a constant, with the score
    of the data unknown.
    """

    def one(x: Array) -> Array:
        jacobian = jax.jacfwd(lambda y: score(y[None])[0])(x)
        return jnp.trace(jacobian)

    return 0.5 * sum_over_data(score(x) ** 2) + jax.vmap(one)(x)


def sliced_score_matching(
    key: Key, score: ScoreOfX, x: Float[Array, "batch dims"]
) -> Float[Array, " batch"]:
    """Exact score matching with the trace estimated by one random slice.

    The variance-reduced form is |s|^2 / 2 + v . (ds/dx) v with v of random signs (Song
    et al. 2019b, eq. 8).

    Args:
        key: one key, or one per example.
        score: the score of x, [batch, dims] -> [batch, dims].
        x: data, [batch, dims].
    """
    v = per_example(jr.rademacher, example_keys(key, x.shape[0]), x)
    s, slope = jax.jvp(score, (x,), (v,))
    return 0.5 * sum_over_data(s**2) + sum_over_data(v * slope)
