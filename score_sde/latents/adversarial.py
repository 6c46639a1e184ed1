"""The adversarial part of an autoencoder's loss (Esser et al. 2021).

The discriminator tells real patches from reconstructed ones. Its share in the loss of
the decoder is as strong as that of the reconstruction, measured by their gradients at
the decoder's last layer, and is phased in once the discriminator has learned something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_sde.arrays import mean_over_batch, mean_over_data
from score_sde.latents.coder import Coder, leaf_at, replaced
from score_sde.types import Array, Key, Params

SMALLEST = 1e-4
"""Added to the norm of the adversarial gradient."""
LARGEST = 1e4
"""Limit of the ratio of the two norms."""


def hinge(real: Array, fake: Array) -> Array:
    """The hinge loss of logits of patches [batch, h, w] (Lim and Ye 2017): [batch]."""
    losses = jax.nn.relu(1 - real), jax.nn.relu(1 + fake)
    return 0.5 * (mean_over_data(losses[0]) + mean_over_data(losses[1]))


def vanilla(real: Array, fake: Array) -> Array:
    """The logistic loss of logits of patches (Goodfellow et al. 2014): [batch]."""
    losses = jax.nn.softplus(-real), jax.nn.softplus(fake)
    return 0.5 * (mean_over_data(losses[0]) + mean_over_data(losses[1]))


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "hinge": hinge,
    "vanilla": vanilla,
}
"""Name -> the discriminator's loss of real and reconstructed patches, [batch]."""


def generator_loss(fake: Array) -> Array:
    """Compute minus the mean logit of an image's patches, for the decoder: [batch]."""
    return -mean_over_data(fake)


def ramp(step: Array, *, start: int, steps: int) -> Array:
    """0 before `start`, then rising to 1 along a line of `steps` steps.

    With 0 steps it is 1 from `start` on.
    """
    passed = jnp.asarray(step, jnp.float32) - start + float(steps == 0)
    return jnp.clip(passed / max(steps, 1), 0, 1)


def last_layer_norms(
    coder: Coder,
    params: Params,
    z: Array,
    cotangents: tuple[Array, ...],
    *,
    dropout_key: Key | None = None,
) -> list[Array]:
    """Norms of gradients at the kernel of the decoder's last layer.

    Args:
        coder: the autoencoder.
        params: its parameters.
        z: the latents that were rendered.
        cotangents: the gradient of each loss at the images, of its mean over the part
            of the batch that is here; the norms are those of the whole batch.
        dropout_key: that of the rendering.
    """
    params, z = jax.lax.stop_gradient((params, z))
    options: dict[str, Any] = {}
    if dropout_key is not None:
        options["dropout_key"] = dropout_key

    def render(kernel: Array) -> Array:
        return coder.render(replaced(params, coder.last_layer, kernel), z, **options)

    _, pull = jax.vjp(render, leaf_at(params, coder.last_layer))
    found = [mean_over_batch(pull(cotangent)[0]) for cotangent in cotangents]
    return [jnp.sqrt((gradient**2).sum()) for gradient in found]


def adaptive_weight(of_error: Array, of_generator: Array, *, scale: float) -> Array:
    """The weight of the generator's loss, without a gradient.

    Args:
        of_error: norm of the reconstruction's gradient at the last layer.
        of_generator: norm of the generator loss's gradient there.
        scale: of the result.

    Source: Esser et al. 2021, eq. 7.
    """
    ratio = of_error / (of_generator + SMALLEST)
    return jax.lax.stop_gradient(scale * jnp.clip(ratio, 0, LARGEST))
