"""The bound of a discrete chain, and the loss that trains its variances.

The chain is on levels sigmas[0] < ... < sigmas[T - 1]. Step `index` leaves level
sigmas[index] for the one below; step 0 is the decoder. In x = xt / alpha, from level t
to s < t, with q the true posterior given x0 and D the denoised data,

    mean of q - mean of p = (1 - s^2/t^2) (x0 - D)
    variance of q         = s^2 (t^2 - s^2) / t^2  ,

so that with the variance of q in p a step costs |x0 - D|^2 (1/s^2 - 1/t^2) / 2, half
the fall of the signal-to-noise ratio (Kingma et al. 2021, eq. 14).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int, Num

from score_sde.arrays import (
    as_data,
    example_keys,
    expand_like,
    in_full_precision,
    mean_over_data,
    per_example,
    sum_over_data,
)
from score_sde.checks import check_rising
from score_sde.elbo.terms import Bound, Decoder, noise_at, prior_term
from score_sde.fields import checks_rules
from score_sde.rules import Positive
from score_sde.types import Array, Denoise, Grid, Key, Points

Variance = Callable[[Array, Array, Array], Array]
"""(x, sigmas, index) -> log of the variance of step `index` in p.

Of the variance-preserving xt, as published; a scalar, [batch], or shaped like x.
"""


def fixed_small(x: Array, sigmas: Array, index: Array) -> Array:
    """Log of the variance of q; step 0, which has none, gets step 1's (Ho 2020)."""
    del x
    index = jnp.maximum(index, 1)
    s, t = sigmas[index - 1], sigmas[index]
    return jnp.log(_posterior_variance(s, t)) - jnp.log1p(s**2)


def fixed_large(x: Array, sigmas: Array, index: Array) -> Array:
    """Log of beta, the variance that the forward step adds; step 0 as `fixed_small`."""
    return jnp.where(
        index == 0, fixed_small(x, sigmas, index), _log_beta(sigmas, index)
    )


VARIANCES: dict[str, Variance] = {
    "fixed_small": fixed_small,
    "fixed_large": fixed_large,
}

Reverse = Callable[[Array, Array, Array, Any], tuple[Array, Array]]
"""(x, sigmas, index, cond) -> D, and the log variance of step `index` in p."""


def with_fixed_variance(denoise: Denoise, variance: Variance = fixed_small) -> Reverse:
    """Make the steps of a denoiser, whose variance is a function of the levels."""

    def reverse(
        x: Array, sigmas: Array, index: Array, cond: Any
    ) -> tuple[Array, Array]:
        return denoise(x, sigmas[index], cond), variance(x, sigmas, index)

    return reverse


def with_learned_variance(
    predict: Callable[[Array, Array, Any], tuple[Array, Array]],
) -> Reverse:
    """Make the steps of a network that predicts their variances.

    The logarithm of a variance lies between that of q and beta, in proportion to v
    (Nichol and Dhariwal 2021, eq. 15).

    Args:
        predict: (x, sigma, cond) -> (D, v), shaped like x: v = -1 for the variance of
            q, 1 for beta. It gives both at once, since two calls of one network are
            computed twice, with all their gradients.
    """

    def reverse(
        x: Array, sigmas: Array, index: Array, cond: Any
    ) -> tuple[Array, Array]:
        denoised, v = predict(x, sigmas[index], cond)
        share = 0.5 * (v + 1)
        small = expand_like(fixed_small(x, sigmas, index), x)
        large = expand_like(_log_beta(sigmas, index), x)
        return denoised, share * large + (1 - share) * small

    return reverse


def _below(sigmas: Array, index: Array) -> Array:
    """The level to which a step leads: 0 for step 0."""
    return jnp.where(index == 0, 0, sigmas[jnp.maximum(index, 1) - 1])


def _posterior_variance(s: Array, t: Array) -> Array:
    """Variance of q(x_s given x_t, x0), in x = xt / alpha."""
    return s**2 * (t**2 - s**2) / t**2


def _log_beta(sigmas: Array, index: Array) -> Array:
    """Log of the variance that the forward step adds to xt."""
    s, t = _below(sigmas, index), sigmas[index]
    return jnp.log((t**2 - s**2) / (1 + t**2))


def chain_term(
    reverse: Reverse,
    x0: Float[Array, "batch *dims"],
    eps: Float[Array, "batch *dims"],
    index: Int[Array, ""] | Int[Array, " batch"],
    *,
    sigmas: Float[Array, " levels"],
    decoder: Decoder,
    cond: Any = None,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Compute one term of the bound at x0 + sigmas[index] eps.

    Args:
        reverse: the steps of the chain.
        x0: clean data, [batch, *dims].
        eps: standard normal noise, shaped like x0.
        index: the step, a scalar or [batch].
        sigmas: the levels of the chain, ascending, [levels].
        decoder: -log p(x0 given the least noisy state).
        cond: the condition of the network, or None.

    Returns:
        (nats, error), each [batch]: KL(q || p) of the step, or for index 0 the
        decoder's negative log-likelihood; and the mean squared error of x0.
    """
    x = x0 + expand_like(sigmas[index], x0) * eps
    denoised, log_p = reverse(x, sigmas, index, cond)
    nats = _chain_nats(denoised, log_p, x0, index, sigmas=sigmas, decoder=decoder)
    return nats, mean_over_data((x0 - denoised) ** 2)


def _chain_nats(
    denoised: Array,
    log_p: Array,
    x0: Array,
    index: Array,
    *,
    sigmas: Array,
    decoder: Decoder,
) -> Array:
    """KL(q || p) of step `index`, or the decoder's term for step 0, [batch]."""
    s, t = _below(sigmas, index), sigmas[index]
    # From xt to x = xt / alpha, whose variance is 1 / alpha^2 = 1 + s^2 times as large.
    log_p = log_p if log_p.ndim == x0.ndim else expand_like(log_p, x0)
    log_p = log_p + expand_like(jnp.log1p(s**2), x0)
    # Step 0 has no q: any positive number keeps its unused branch finite.
    true = expand_like(jnp.where(index == 0, 1.0, _posterior_variance(s, t)), x0)
    gap = expand_like(1 - (s / t) ** 2, x0) * (x0 - denoised)
    ratio = (true + gap**2) * jnp.exp(-log_p)
    step = sum_over_data(0.5 * (log_p - jnp.log(true) + ratio - 1))
    first = decoder(x0, denoised, jnp.exp(0.5 * log_p))
    return jnp.where(index == 0, first, step)


@in_full_precision
def chain_bound(
    key: Key | None,
    reverse: Reverse,
    x0: Points,
    *,
    sigmas: Grid,
    decoder: Decoder,
    noise: Num[Array | np.ndarray, "levels batch *dims"] | None = None,
    cond: Any = None,
) -> Bound:
    """Estimate the bound of a chain with prior N(0, 1) on xt, by a draw at every level.

    Args:
        key: one key, or one per example; None where `noise` is given.
        reverse: the steps of the chain.
        x0: clean data, [batch, *dims].
        sigmas: the levels, ascending, [levels]; of abar_t, sqrt(1 / abar_t - 1).
        decoder: -log p(x0 given the least noisy state).
        noise: given noise, [levels, *x0.shape], instead of the key.
        cond: the condition of the network, or None.

    Raises: ValueError for levels that don't rise, if there is neither a key nor noise,
        and for noise of another shape.
    """
    x0 = as_data(x0, "x0")
    check_rising(sigmas)
    sigmas = jnp.asarray(sigmas, x0.dtype)
    wanted = (len(sigmas), *x0.shape)
    if noise is not None and noise.shape != wanted:
        raise ValueError(f"noise has the shape {noise.shape}; it must be {wanted}.")

    def drawn(index: Array) -> Array:
        if noise is not None:
            return noise[index]
        if key is None:
            raise ValueError("chain_bound needs a key, or the noise itself.")
        return noise_at(key, index, x0)

    def one(_: None, index: Array) -> tuple[None, tuple[Array, Array]]:
        return None, chain_term(
            reverse, x0, drawn(index), index, sigmas=sigmas, decoder=decoder, cond=cond
        )

    terms, errors = jax.lax.scan(one, None, jnp.arange(len(sigmas)))[1]
    last = sigmas[-1]
    return Bound(
        prior=prior_term(x0, last, prior_variance=1 + last**2),
        steps=terms[1:].T,
        decoder=terms[0],
        sigma=jnp.broadcast_to(sigmas[None, 1:], (len(x0), len(sigmas) - 1)),
        squared_error=errors[1:].T,
    )


@checks_rules
def hybrid_loss(
    key: Key,
    reverse: Reverse,
    x0: Points,
    *,
    sigmas: Grid,
    decoder: Decoder,
    bound_weight: Annotated[float, Positive] = 1e-3,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """L_simple + bound_weight T L_vlb, per example (Nichol and Dhariwal 2021, eq. 16).

    The second term, in bits/dim, trains the variance alone: its mean has no gradient.

    Args:
        key: one key, or one per example.
        reverse: the steps of the chain, of a network that predicts variances.
        x0: clean data, [batch, *dims].
        sigmas: the levels of the chain, ascending, [levels].
        decoder: -log p(x0 given the least noisy state).
        bound_weight: how much the bound counts.
        cond: the condition of the network, or None.

    Returns:
        The loss, [batch].

    Raises: ValueError for a bound_weight that is not > 0, and levels that don't rise.
    """
    check_rising(sigmas)
    key_index, key_eps = jr.split(key)
    x0 = as_data(x0, "x0")
    keys = example_keys(key_index, x0.shape[0])
    index = jax.vmap(lambda k: jr.randint(k, (), 0, len(sigmas)))(keys)
    eps = per_example(jr.normal, example_keys(key_eps, x0.shape[0]), x0)
    sigmas = jnp.asarray(sigmas, x0.dtype)
    simple, bound = hybrid_terms(
        reverse, x0, eps, index, sigmas=sigmas, decoder=decoder, cond=cond
    )
    return simple + bound_weight * len(sigmas) * bound


def hybrid_terms(
    reverse: Reverse,
    x0: Float[Array, "batch *dims"],
    eps: Float[Array, "batch *dims"],
    index: Int[Array, ""] | Int[Array, " batch"],
    *,
    sigmas: Float[Array, " levels"],
    decoder: Decoder,
    cond: Any = None,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Both terms of the hybrid loss at one step: (L_simple, L_vlb), each [batch].

    L_simple is the mean squared error of the noise, L_vlb the term of the bound in
    bits/dim. The arguments are those of `chain_term`.
    """
    sigma = expand_like(sigmas[index], x0)
    denoised, log_p = reverse(x0 + sigma * eps, sigmas, index, cond)
    simple = mean_over_data(((x0 - denoised) / sigma) ** 2)
    mean = jax.lax.stop_gradient(denoised)
    nats = _chain_nats(mean, log_p, x0, index, sigmas=sigmas, decoder=decoder)
    return simple, nats / (math.prod(x0.shape[1:]) * math.log(2))
