"""One Gaussian, whose flow has a closed form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from score_sde.arrays import as_float, matmul
from score_sde.divergences import gaussian_divergence
from score_sde.oracles.mixtures import GaussianMixture
from score_sde.types import Array, Level, Points


class Gaussian(GaussianMixture):
    """One Gaussian, whose flow is known too.

    Args:
        mean: [dims].
        covariance: [dims, dims], positive semi-definite.

    Examples:
        Of variance 3, at noise level 1: the mean of x0 is 3/4 of x, and the flow to the
        data scales by sqrt(3/4).

        >>> data = Gaussian(jnp.zeros(1), 3.0 * jnp.eye(1))
        >>> print(data.denoise(jnp.array([[4.0]]), 1.0))
        [[3.]]
        >>> print(f"{data.flow(jnp.array([[4.0]]), 1.0, 0.0).item():.3f}")
        3.464
    """

    def __init__(self, mean: Array, covariance: Array):
        mean = as_float(mean)
        super().__init__(
            mean[None], as_float(covariance)[None], jnp.ones(1, mean.dtype)
        )

    def flow(
        self, x: Points, sigma: Level, sigma_next: Level, *, num_steps: int = 1
    ) -> Float[Array, "batch dims"]:
        """Carry x by the probability flow from level sigma to sigma_next, in one step.

        Along each eigenvector of the covariance, with eigenvalue c, the distance to
        the mean scales by sqrt((c + sigma_next^2) / (c + sigma^2)).
        """
        del num_steps  # nothing is solved
        x = as_float(x)
        values, vectors = jnp.linalg.eigh(jnp.asarray(self.covariances[0], x.dtype))
        mean = jnp.asarray(self.means, x.dtype)
        level, level_next = (
            jnp.asarray(s, x.dtype).reshape(-1, 1) for s in (sigma, sigma_next)
        )
        scale = jnp.sqrt((values[None] + level_next**2) / (values[None] + level**2))
        return mean + matmul(scale * matmul(x - mean, vectors), vectors.T)

    def jump_divergence(
        self, x: Points, sigma: Level, sigma_next: Level, cond: Any = None
    ) -> Float[Array, " batch"]:
        """The divergence of the exact jump: the mean of those along each eigenvector.

        With eigenvalue c it is half of log((c + sigma_next^2)/(c + sigma^2)), over
        log(sigma_next/sigma), wherever x is.
        """
        del cond
        x = as_float(x)
        start, end = (
            jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape[:1])
            for s in (sigma, sigma_next)
        )
        values = jnp.linalg.eigvalsh(jnp.asarray(self.covariances[0], x.dtype))
        each = [
            gaussian_divergence(start, end, sigma_data=jnp.sqrt(value))
            for value in values.clip(0)
        ]
        return jnp.stack(each).mean(0)


jax.tree_util.register_pytree_node(
    Gaussian,
    lambda g: ((g.means, g.covariances, g.weights), None),
    lambda _, leaves: _rebuilt(leaves),
)


def _rebuilt(leaves: Any) -> Gaussian:
    gaussian = object.__new__(Gaussian)
    GaussianMixture.__init__(gaussian, *leaves)
    return gaussian
