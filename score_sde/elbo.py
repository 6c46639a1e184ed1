"""The variational bound on the negative log-likelihood, term by term, in nats.

A chain of Gaussians, from the prior at sigma_T down to the data, has the bound

    L_T + sum of L_(t-1) + L_0                     (Ho et al. 2020, eq. 5)

of the prior, the steps and the decoder. In x = xt / alpha, from level t to s < t, with
q the true posterior given x0 and D the denoised data,

    mean of q - mean of p = (1 - s^2/t^2) (x0 - D)
    variance of q         = s^2 (t^2 - s^2) / t^2  ,

so that with the variance of q in p a step costs |x0 - D|^2 (1/s^2 - 1/t^2) / 2, half
the fall of the signal-to-noise ratio (Kingma et al. 2021, eq. 14). In the limit of
many steps their sum is the integral of |x0 - D|^2 / sigma^2 over log sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import log_ndtr

from score_sde.arrays import (
    as_float,
    example_keys,
    expand_like,
    mean_over_data,
    per_example,
    sum_over_data,
    typed_key,
)
from score_sde.types import Array, Denoise, Key, Scalar


class Bound(NamedTuple):
    """Terms of the bound in nats, one row per example."""

    prior: Array
    """L_T: what is left of x0 at the highest level, [batch]."""
    steps: Array
    """[batch, steps], from the lowest level up."""
    decoder: Array
    """L_0, [batch]."""
    sigma: Array
    """The level that each step starts from, [batch, steps]."""
    squared_error: Array
    """|x0 - D|^2 at that level, mean over the data, [batch, steps]."""

    @property
    def nats(self) -> Array:
        """The bound: no less than -log p(x0) in expectation, [batch]."""
        return self.prior + self.steps.sum(1) + self.decoder


# What the data are, given the least noisy state.

Decoder = Callable[[Array, Array, Array], Array]
"""(x0, denoised, std) -> -log p(x0 given x_1) in nats, [batch].

std is a scalar or has the rank of x0.
"""


def gaussian_decoder(x0: Array, denoised: Array, std: Array) -> Array:
    """Of continuous data: the density of N(denoised, std^2) at x0."""
    z = (x0 - denoised) / std
    return sum_over_data(0.5 * z**2 + jnp.log(std) + 0.5 * math.log(2 * math.pi))


def discretised_decoder(width: float) -> Decoder:
    """Of levels: the mass of N(denoised, std^2) in the bin of that width around x0."""

    def decoder(x0: Array, denoised: Array, std: Array) -> Array:
        return -sum_over_data(bin_log_prob(x0, denoised, std, width=width))

    return decoder


def bin_log_prob(x: Array, mean: Array, std: Array, *, width: float) -> Array:
    """Logarithm of the mass of N(mean, std^2) within width / 2 of x.

    The first and the last bin in [-1, 1] are open to infinity, so that the masses of
    all levels sum to one (Ho et al. 2020, eq. 13). The normal distribution function
    is exact, and its differences are taken in the lower tail, where they don't cancel.
    """
    low, high = ((x + 0.5 * side * width - mean) / std for side in (-1, 1))
    upper = low + high > 0
    left, right = jnp.where(upper, -high, low), jnp.where(upper, -low, high)
    top = log_ndtr(right)
    inner = top + jnp.log(-jnp.expm1(log_ndtr(left) - top))
    # The outermost centres are at most half a width from the end, no others are.
    is_first, is_last = x - 0.75 * width < -1, x + 0.75 * width > 1
    return jnp.where(
        is_first, log_ndtr(high), jnp.where(is_last, log_ndtr(-low), inner)
    )


# The discrete chain on levels sigmas[0] < ... < sigmas[T - 1]. Step `index` leaves
# level sigmas[index] for the one below; step 0 is the decoder.

Variance = Callable[[Array, Array, Array], Array]
"""(x, sigmas, index) -> log of the variance of step `index` in p.

Of the variance-preserving xt, as published; a scalar, [batch], or shaped like x.
"""


def fixed_small(x: Array, sigmas: Array, index: Array) -> Array:
    """The variance of q; that of step 1 for step 0, which has none (Ho et al. 2020)."""
    del x
    index = jnp.maximum(index, 1)
    s, t = sigmas[index - 1], sigmas[index]
    return jnp.log(_posterior_variance(s, t)) - jnp.log1p(s**2)


def fixed_large(x: Array, sigmas: Array, index: Array) -> Array:
    """beta, the variance that the forward step adds; for step 0 as `fixed_small`."""
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
    """Steps of a denoiser, whose variance is a function of the levels."""

    def reverse(
        x: Array, sigmas: Array, index: Array, cond: Any
    ) -> tuple[Array, Array]:
        return denoise(x, sigmas[index], cond), variance(x, sigmas, index)

    return reverse


def with_learned_variance(
    predict: Callable[[Array, Array, Any], tuple[Array, Array]],
) -> Reverse:
    """Between the two, in the logarithm (Nichol and Dhariwal 2021, eq. 15).

    Args: `predict(x, sigma, cond)` gives D and v, shaped like x: v = -1 for the
    variance of q, 1 for beta. Both at once, since two calls of one network are computed
    twice, with all their gradients.
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
    return s**2 * (t**2 - s**2) / t**2


def _log_beta(sigmas: Array, index: Array) -> Array:
    s, t = _below(sigmas, index), sigmas[index]
    return jnp.log((t**2 - s**2) / (1 + t**2))


def chain_term(
    reverse: Reverse,
    x0: Array,
    eps: Array,
    index: Array,
    *,
    sigmas: Array,
    decoder: Decoder,
    cond: Any = None,
) -> tuple[Array, Array]:
    """(term in nats, mean squared error of x0) of step `index`, each [batch].

    KL(q || p) of the step, or for index 0 the decoder's negative log-likelihood, at
    x0 + sigmas[index] eps. Args: `index`, a scalar or [batch].
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


def chain_bound(
    key: Key | None,
    reverse: Reverse,
    x0: Array,
    *,
    sigmas: Array,
    decoder: Decoder,
    noise: Array | None = None,
    cond: Any = None,
) -> Bound:
    """The bound of the chain with prior N(0, 1) on xt, by one draw at every level.

    Args:
        sigmas: increasing, [levels]; of abar_t, sqrt(1 / abar_t - 1).
        noise: given noise, [levels, *x0.shape], instead of the key.
    Raises: ValueError if there is neither a key nor noise.
    """
    if key is None and noise is None:
        raise ValueError("chain_bound needs a key, or the noise itself.")
    x0 = as_float(x0)
    sigmas = jnp.asarray(sigmas, x0.dtype)

    def one(_: None, index: Array) -> tuple[None, tuple[Array, Array]]:
        eps = _noise_at(key, index, x0) if noise is None else noise[index]
        term = chain_term(
            reverse, x0, eps, index, sigmas=sigmas, decoder=decoder, cond=cond
        )
        return None, term

    terms, errors = jax.lax.scan(one, None, jnp.arange(len(sigmas)))[1]
    last = sigmas[-1]
    return Bound(
        prior=prior_term(x0, last, prior_variance=1 + last**2),
        steps=terms[1:].T,
        decoder=terms[0],
        sigma=jnp.broadcast_to(sigmas[None, 1:], (len(x0), len(sigmas) - 1)),
        squared_error=errors[1:].T,
    )


def prior_term(x0: Array, sigma: Scalar, *, prior_variance: Scalar) -> Array:
    """KL of x0 + sigma eps given x0 to the prior N(0, prior_variance), [batch]."""
    ratio = jnp.asarray(sigma**2 / prior_variance, x0.dtype)
    mean = x0**2 / jnp.asarray(prior_variance, x0.dtype)
    return sum_over_data(0.5 * (mean + (ratio - 1 - jnp.log(ratio))))


def _noise_at(key: Key | None, index: Array, x: Array) -> Array:
    """A function of (key, example, index)."""
    assert key is not None
    keys = jax.vmap(lambda k: jr.fold_in(k, index))(example_keys(key, x.shape[0]))
    return per_example(jr.normal, keys, x)


def hybrid_loss(
    key: Key,
    reverse: Reverse,
    x0: Array,
    *,
    sigmas: Array,
    decoder: Decoder,
    bound_weight: float = 1e-3,
    cond: Any = None,
) -> Array:
    """L_simple + bound_weight T L_vlb, per example (Nichol and Dhariwal 2021, eq. 16).

    The second, in bits/dim, trains the variance alone: its mean has no gradient.
    """
    key_index, key_eps = jr.split(key)
    x0 = as_float(x0)
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
    x0: Array,
    eps: Array,
    index: Array,
    *,
    sigmas: Array,
    decoder: Decoder,
    cond: Any = None,
) -> tuple[Array, Array]:
    """(mean squared error of the noise, term of the bound in bits/dim), [batch]."""
    sigma = expand_like(sigmas[index], x0)
    denoised, log_p = reverse(x0 + sigma * eps, sigmas, index, cond)
    simple = mean_over_data(((x0 - denoised) / sigma) ** 2)
    mean = jax.lax.stop_gradient(denoised)
    nats = _chain_nats(mean, log_p, x0, index, sigmas=sigmas, decoder=decoder)
    return simple, nats / (math.prod(x0.shape[1:]) * math.log(2))


def continuous_bound(
    key: Key,
    denoise: Denoise,
    x0: Array,
    *,
    sigma_min: Scalar,
    sigma_max: Scalar,
    decoder: Decoder = gaussian_decoder,
    num_draws: int = 64,
    cond: Any = None,
) -> Bound:
    """The bound of the reverse SDE, with prior N(0, sigma_max^2) (Kingma et al. 2021).

    prior + integral of |x0 - D|^2 / sigma^2 over log sigma + decoder at sigma_min.
    It depends on the SDE by the two ends alone (eq. 18). With the Gaussian decoder it
    is also the bound of Song et al. 2021b, theorem 3, with their correction at the
    lower end: the integrals of g^2 |grad log q|^2 and of the divergence of f there are
    the entropies of q, which the terms here contain.

    The integral is unbiased: one draw of log sigma in each of num_draws equal strata.
    Its importance sampling is that of Song et al. 2021b for the likelihood weighting.
    """
    x0, key = as_float(x0), typed_key(key)
    low = jnp.log(jnp.asarray(sigma_min, x0.dtype))
    high = jnp.log(jnp.asarray(sigma_max, x0.dtype))
    step = (high - low) / num_draws
    key_sigma, key_eps = jr.split(key) if key.ndim == 0 else _split_each(key)
    keys_sigma = example_keys(key_sigma, x0.shape[0])

    def one(_: None, index: Array) -> tuple[None, tuple[Array, Array]]:
        u = jax.vmap(lambda k: jr.uniform(jr.fold_in(k, index), (), x0.dtype))
        sigma = jnp.exp(low + (index.astype(x0.dtype) + u(keys_sigma)) * step)
        x = x0 + expand_like(sigma, x0) * _noise_at(key_eps, index, x0)
        return None, (sigma, mean_over_data((x0 - denoise(x, sigma, cond)) ** 2))

    sigma, error = (a.T for a in jax.lax.scan(one, None, jnp.arange(num_draws))[1])
    eps = _noise_at(key_eps, jnp.asarray(num_draws), x0)
    first = denoise(x0 + jnp.exp(low) * eps, jnp.exp(low), cond)
    num_dims = math.prod(x0.shape[1:])
    return Bound(
        prior=prior_term(x0, jnp.exp(high), prior_variance=jnp.exp(2 * high)),
        steps=step * num_dims * error / sigma**2,
        decoder=decoder(x0, first, jnp.exp(low)),
        sigma=sigma,
        squared_error=error,
    )


def _split_each(keys: Key) -> tuple[Key, Key]:
    first, second = jax.vmap(jr.split, out_axes=1)(keys)
    return first, second
