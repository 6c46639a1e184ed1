"""Denoising losses, one value per example, and what they average over.

The objective of every diffusion model is an integral over noise levels,

    E over log sigma ~ p of  weight(sigma) mean |D(x0 + sigma eps, sigma) - x0|^2,

so a loss here is a weight on the squared error of x0 and a distribution of sigma
(`noise_levels.py`). The same objective can be trained under any other distribution q
by multiplying with p / q, which changes the variance of its gradient alone
(Kingma and Gao 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from score_sde.arrays import (
    as_data,
    as_labels,
    check_alike,
    example_keys,
    expand_like,
    mean_over_data,
    per_example,
)
from score_sde.losses.weights import Weight
from score_sde.noise_levels import NoiseLevels
from score_sde.types import Array, Denoise, Key, Points


def denoising_loss(
    key: Key,
    denoise: Denoise,
    x0: Points,
    *,
    noise_levels: NoiseLevels,
    weight: Weight,
    reference: NoiseLevels | None = None,
    log_variance: Callable[[Array], Array] | None = None,
    cond: Any = None,
) -> Float[Array, " batch"]:
    """Weighted squared error of the denoised data, per example.

    weight(sigma) mean |D(x0 + sigma eps, sigma) - x0|^2 (Karras et al. 2022, eq. 2;
    Vincent 2011).

    Args:
        key: one key, or one per example.
        denoise: the denoiser that is trained.
        x0: clean data, [batch, *dims].
        noise_levels: where sigma is drawn from.
        weight: a function of sigma, [batch] -> [batch].
        reference: the distribution that defines the objective, if it is another one;
            the loss is then multiplied by the ratio of their densities.
        log_variance: u(log sigma), learned jointly. The loss becomes
            loss / exp(u) + u, whose best u is the logarithm of the loss, so that all
            noise levels contribute alike (Karras et al. 2024, eq. 21).
        cond: the condition of the denoiser, or None.

    Returns:
        The loss, [batch].

    Examples:
        Of the exact denoiser of N(0, 1), at sigma = 1, it is the variance that is left
        of x0, 1/2:

        >>> import score_sde as ss
        >>> data = ss.oracles.Gaussian(jnp.zeros(1), jnp.eye(1))
        >>> x0 = data.sample(jr.key(0), 10_000)
        >>> at_1 = ss.noise_levels.LogNormal(mean=0.0, std=1e-3)
        >>> loss = denoising_loss(
        ...     jr.key(1), data.denoise, x0, noise_levels=at_1, weight=jnp.ones_like
        ... )
        >>> print(loss.shape, f"{loss.mean():.1f}")
        (10000,) 0.5
    """
    key_sigma, key_eps = jr.split(key)
    x0 = as_data(x0, "x0")
    batch = x0.shape[0]
    sigma = noise_levels.draw(key_sigma, batch).astype(x0.dtype)
    eps = per_example(jr.normal, example_keys(key_eps, batch), x0)
    denoised = denoise(x0 + expand_like(sigma, x0) * eps, sigma, cond)
    error = check_alike("the denoised data", denoised, x0) - x0
    loss = weight(sigma) * mean_over_data(error**2)
    if reference is not None:
        loss = loss * reference.density(sigma) / noise_levels.density(sigma)
    if log_variance is not None:
        u = log_variance(jnp.log(sigma))
        loss = loss / jnp.exp(u) + u
    return loss + noise_levels.surrogate(sigma, loss)


def classification_loss(
    key: Key,
    logits: Callable[[Array, Array], Array],
    x0: Points,
    label: Int[Array | np.ndarray, " batch"],
    *,
    noise_levels: NoiseLevels,
) -> Float[Array, " batch"]:
    """-log p(label given x0 + sigma eps, sigma) in nats, per example.

    Its minimum is the classifier of noisy data whose gradient guides a sampler
    (Dhariwal and Nichol 2021, sec. 4).

    Args:
        key: one key, or one per example.
        logits: (x, sigma) -> [batch, classes].
        x0: clean data, [batch, *dims].
        label: the class of each example, int [batch].
        noise_levels: where sigma is drawn from.
    """
    key_sigma, key_eps = jr.split(key)
    x0 = as_data(x0, "x0")
    sigma = noise_levels.draw(key_sigma, len(x0)).astype(x0.dtype)
    eps = per_example(jr.normal, example_keys(key_eps, len(x0)), x0)
    log_probs = jax.nn.log_softmax(logits(x0 + expand_like(sigma, x0) * eps, sigma))
    label = as_labels(label, log_probs.shape[-1])
    return -jnp.take_along_axis(log_probs, label[:, None], axis=1)[:, 0]
