"""The bound of the reverse SDE, in continuous time."""

from __future__ import annotations

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import (
    as_data,
    example_keys,
    expand_like,
    in_full_precision,
    mean_over_data,
    typed_key,
)
from score_sde.checks import check_rising
from score_sde.elbo.terms import (
    Bound,
    Decoder,
    gaussian_decoder,
    noise_at,
    prior_term,
)
from score_sde.fields import checks_rules
from score_sde.rules import at_least
from score_sde.types import Array, Denoise, Key, Points, Scalar


@checks_rules
@in_full_precision
def continuous_bound(
    key: Key,
    denoise: Denoise,
    x0: Points,
    *,
    sigma_min: Scalar,
    sigma_max: Scalar,
    decoder: Decoder = gaussian_decoder,
    num_draws: Annotated[int, at_least(1)] = 64,
    cond: Any = None,
) -> Bound:
    """Estimate the bound of the reverse SDE, with prior N(0, sigma_max^2).

    prior + integral of |x0 - D|^2 / sigma^2 over log sigma + decoder at sigma_min.
    It depends on the SDE by the two ends alone (Kingma et al. 2021, eq. 18). With the
    Gaussian decoder it is also the bound of Song et al. 2021b, theorem 3, with their
    correction at the lower end: the integrals of g^2 |grad log q|^2 and of the
    divergence of f there are the entropies of q, which the terms here contain.

    The integral is unbiased: one draw of log sigma in each of num_draws equal strata.
    Its importance sampling is that of Song et al. 2021b for the likelihood weighting.

    Args:
        key: one key, or one per example.
        denoise: the denoiser.
        x0: clean data, [batch, *dims].
        sigma_min: the lowest noise level, a scalar.
        sigma_max: the highest noise level, a scalar.
        decoder: -log p(x0 given its state at sigma_min).
        num_draws: draws of log sigma for each example.
        cond: the condition of the denoiser, or None.

    Raises: ValueError for num_draws below 1, and ends that don't rise.

    Examples:
        With the exact denoiser of N(0, 1) nothing is between bound and density:

        >>> x0 = jr.normal(jr.key(0), (2_000, 1))
        >>> denoise = lambda x, sigma, cond: x / (1 + sigma**2)
        >>> ends = {"sigma_min": 0.002, "sigma_max": 80.0}
        >>> bound = continuous_bound(jr.key(1), denoise, x0, **ends)
        >>> exact = 0.5 * (x0**2 + math.log(2 * math.pi))
        >>> print(f"{bound.nats.mean():.1f} beside {exact.mean():.1f}")
        1.4 beside 1.4
    """
    x0, key = as_data(x0, "x0"), typed_key(key)
    check_rising((sigma_min, sigma_max), "sigma_min and sigma_max")
    low = jnp.log(jnp.asarray(sigma_min, x0.dtype))
    high = jnp.log(jnp.asarray(sigma_max, x0.dtype))
    step = (high - low) / num_draws
    key_sigma, key_eps = jr.split(key) if key.ndim == 0 else _split_each(key)
    keys_sigma = example_keys(key_sigma, x0.shape[0])

    def one(_: None, index: Array) -> tuple[None, tuple[Array, Array]]:
        u = jax.vmap(lambda k: jr.uniform(jr.fold_in(k, index), (), x0.dtype))
        sigma = jnp.exp(low + (index.astype(x0.dtype) + u(keys_sigma)) * step)
        x = x0 + expand_like(sigma, x0) * noise_at(key_eps, index, x0)
        return None, (sigma, mean_over_data((x0 - denoise(x, sigma, cond)) ** 2))

    sigma, error = (a.T for a in jax.lax.scan(one, None, jnp.arange(num_draws))[1])
    eps = noise_at(key_eps, jnp.asarray(num_draws), x0)
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
    """Split every key of [batch] in two."""
    first, second = jax.vmap(jr.split, out_axes=1)(keys)
    return first, second
