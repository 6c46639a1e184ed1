"""The empirical distribution of a data set."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from score_sde.arrays import as_float, expand_like, matmul
from score_sde.fields import pytree
from score_sde.oracles.mixtures import alpha_std
from score_sde.sde import SDE
from score_sde.types import Array, Key, Level, Points


@pytree
class PointMasses:
    """The empirical distribution of a data set: its denoiser is the ideal one.

    A network that reached the minimum of the denoising loss on these points would be
    this function (Karras et al. 2022, app. B.3).

    Args:
        points: [num_points, *dims].
    """

    points: Float[Array, "points *dims"]

    def denoise(
        self, x: Points, sigma: Level, cond: Any = None
    ) -> Float[Array, "batch *dims"]:
        """E[x0 given x0 + sigma eps = x], an average of points; `cond` is ignored."""
        del cond
        x = as_float(x)
        log_joint = self._log_joint(x, *alpha_std(sigma, None, x))
        posterior = jax.nn.softmax(log_joint, axis=1)
        flat = jnp.asarray(self.points, x.dtype).reshape(len(self.points), -1)
        return matmul(posterior, flat).reshape(x.shape)

    def score(
        self, xt: Points, t: Level, cond: Any = None, *, sde: SDE | None = None
    ) -> Float[Array, "batch *dims"]:
        """Gradient of log p_t at xt; without an SDE, alpha = 1 and t = sigma."""
        xt = as_float(xt)
        alpha, std = (expand_like(a, xt) for a in alpha_std(t, sde, xt))
        sigma = t if sde is None else sde.sigma(t)
        return (alpha * self.denoise(xt / alpha, sigma, cond) - xt) / std**2

    def log_prob(
        self, xt: Points, t: Level, *, sde: SDE | None = None
    ) -> Float[Array, " batch"]:
        """Log-density of xt at time t in nats, [batch]; without an SDE, t = sigma."""
        xt = as_float(xt)
        log_joint = self._log_joint(xt, *alpha_std(t, sde, xt))
        return jax.nn.logsumexp(log_joint, axis=1)

    def sample(self, key: Key, num_samples: int) -> Float[Array, "{num_samples} *dims"]:
        """Draw points with replacement, [num_samples, *dims]."""
        return jr.choice(key, jnp.asarray(self.points), (num_samples,))

    def _log_joint(self, xt: Array, alpha: Array, std: Array) -> Array:
        points = jnp.asarray(self.points, xt.dtype).reshape(1, len(self.points), -1)
        alpha, std = (a[:, None] if a.ndim else a for a in (alpha, std))
        centres = (alpha[..., None] if alpha.ndim else alpha) * points
        gaps = xt.reshape(len(xt), 1, -1) - centres
        log_count = math.log(len(self.points))
        log_norm = gaps.shape[-1] * (jnp.log(std) + 0.5 * math.log(2 * math.pi))
        return -0.5 * ((gaps**2).sum(-1) / std**2) - log_norm - log_count
