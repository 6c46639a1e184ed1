"""Distributions whose denoiser, score, log-density and flow are known exactly.

Verify a sampler, a loss or a likelihood against them, yours or ours: they have the
same `denoise(x, sigma)` and `score(xt, t)` that a trained network has.

Noised by xt = alpha (x0 + sigma eps), the mixture of N(m_k, C_k) with weights w_k is
the mixture of N(alpha m_k, alpha^2 C_k + std^2 I), hence with S_k that covariance and
r_k the probability of component k given xt:

    score    = -sum_k r_k S_k^-1 (xt - alpha m_k)
    denoised =  sum_k r_k (m_k + alpha C_k S_k^-1 (xt - alpha m_k))
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from score_sde.arrays import as_float, as_labels, einsum, expand_like, matmul
from score_sde.checks import check_level, check_time
from score_sde.fields import pytree
from score_sde.sde import SDE
from score_sde.types import NO_LABEL, Array, Key, Level, Points


@pytree
class GaussianMixture:
    """Mixture of Gaussians with full covariances.

    Points are [batch, dims]; sigma and t are scalars or [batch].

    Args:
        means: [components, dims].
        covariances: [components, dims, dims], positive semi-definite.
        weights: [components], positive, of any sum.
    """

    means: Float[Array, "components dims"]
    covariances: Float[Array, "components dims dims"]
    weights: Float[Array, " components"]

    def denoise(
        self, x: Points, sigma: Level, cond: Any = None
    ) -> Float[Array, "batch *dims"]:
        """E[x0 given x0 + sigma eps = x]; `cond` is ignored."""
        del cond
        return _average(*self._posterior(x, sigma))

    def score(
        self, xt: Points, t: Level, cond: Any = None, *, sde: SDE | None = None
    ) -> Float[Array, "batch *dims"]:
        """Gradient of log p_t at xt; without an SDE, alpha = 1 and t = sigma."""
        del cond
        xt = as_float(xt)
        solved, log_joint = self._solve(xt, *alpha_std(t, sde, xt))
        return _average(log_joint, -solved)

    def log_prob(
        self, xt: Points, t: Level, *, sde: SDE | None = None
    ) -> Float[Array, " batch"]:
        """Log-density of xt at time t in nats, [batch]; without an SDE, t = sigma."""
        return jax.nn.logsumexp(self.log_joint(xt, t, sde=sde), axis=1)

    def log_joint(
        self, xt: Points, t: Level, *, sde: SDE | None = None
    ) -> Float[Array, "batch components"]:
        """Log-density of xt and each component: [batch, components]."""
        xt = as_float(xt)
        return self._solve(xt, *alpha_std(t, sde, xt))[1]

    def sample(self, key: Key, num_samples: int) -> Float[Array, "{num_samples} *dims"]:
        """Draw x0 independently, [num_samples, dims]."""
        key_component, key_noise = jr.split(key)
        means, weights = as_float(self.means), self._normalised_weights()
        shape = (num_samples,)
        component = jr.choice(key_component, len(weights), shape, p=weights)
        values, vectors = jnp.linalg.eigh(as_float(self.covariances))
        roots = vectors * jnp.sqrt(values.clip(0))[:, None, :]
        eps = jr.normal(key_noise, (num_samples, means.shape[1]), means.dtype)
        return means[component] + einsum("nij,nj->ni", roots[component], eps)

    def flow(
        self, x: Points, sigma: Level, sigma_next: Level, *, num_steps: int = 2048
    ) -> Float[Array, "batch *dims"]:
        """Carry x by the probability flow from level sigma to sigma_next, up or down.

        Solved by the classical Runge-Kutta method, in steps that are even in
        asinh(10 sigma): to 1e-9 of the data's scale in float64, and to rounding in
        float32.

        Args:
            x: [batch, dims], at level sigma.
            sigma: a scalar or [batch].
            sigma_next: a scalar or [batch].
            num_steps: of the solver.
        """
        x = as_float(x)
        start, end = (
            jnp.broadcast_to(jnp.arcsinh(10 * jnp.asarray(s, x.dtype)), x.shape[:1])
            for s in (sigma, sigma_next)
        )
        step = (end - start) / num_steps

        def slope(x: Array, number: Array) -> Array:
            """Slope of x by the number of the step, at a number of steps."""
            place = start + number * step
            # A level above 0 stands in for 0, where the slope vanishes.
            level = jnp.maximum(jnp.sinh(place) / 10, 1e3 * jnp.finfo(x.dtype).tiny)
            rate = step * jnp.cosh(place) / 10
            return -(rate * level)[:, None] * self.score(x, level)

        def one(x: Array, number: Array) -> tuple[Array, None]:
            first = slope(x, number)
            second = slope(x + first / 2, number + 0.5)
            third = slope(x + second / 2, number + 0.5)
            fourth = slope(x + third, number + 1)
            return x + (first + 2 * second + 2 * third + fourth) / 6, None

        return jax.lax.scan(one, x, jnp.arange(num_steps, dtype=x.dtype))[0]

    def jump(
        self, x: Points, sigma: Level, sigma_next: Level, cond: Any = None
    ) -> Float[Array, "batch *dims"]:
        """The jump denoiser G of the exact flow, see `flow_map`; `cond` is ignored.

        X = x + (sigma_next/sigma - 1)(x - G). Where the levels are nearer than the root
        of rounding it is the denoiser, G's limit.
        """
        del cond
        x = as_float(x)
        high, low = (
            jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape[:1])
            for s in (sigma, sigma_next)
        )
        share = 1 - low / high
        near = jnp.abs(share) < jnp.finfo(x.dtype).eps ** 0.5
        gain = expand_like(1 / jnp.where(near, 1, share), x)
        jumped = x + gain * (self.flow(x, high, low) - x)
        return jnp.where(expand_like(near, x) > 0, self.denoise(x, high), jumped)

    def jump_divergence(
        self, x: Points, sigma: Level, sigma_next: Level, cond: Any = None
    ) -> Float[Array, " batch"]:
        """The divergence Q of the exact jump, see `flow_map`; `cond` is ignored.

        (log p_sigma(x) - log p_s(X)) / (dims log(s/sigma)). Where the levels are nearer
        than the root of rounding it is the divergence of x - D, its limit.
        """
        del cond
        x = as_float(x)
        start, end = (
            jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape[:1])
            for s in (sigma, sigma_next)
        )
        way = jnp.log(end / start)
        near = jnp.abs(way) < jnp.finfo(x.dtype).eps ** 0.5
        reached = self.flow(x, start, end)
        change = self.log_prob(x, start) - self.log_prob(reached, end)
        mean = change / (x.shape[1] * jnp.where(near, 1, way))
        slopes = jax.vmap(jax.jacfwd(lambda x, s: self.denoise(x[None], s)[0]))(
            x, start
        )
        limit = 1 - jnp.trace(slopes, axis1=1, axis2=2) / x.shape[1]
        return jnp.where(near, limit, mean)

    def mean(self) -> Float[Array, " dims"]:
        """Mean of x0, [dims]."""
        return matmul(self._normalised_weights(), as_float(self.means))

    def covariance(self) -> Float[Array, "dims dims"]:
        """Covariance of x0, [dims, dims]."""
        weights = self._normalised_weights()
        centred = as_float(self.means) - self.mean()[None]
        within = einsum("k,kij->ij", weights, as_float(self.covariances))
        return within + einsum("k,ki,kj->ij", weights, centred, centred)

    def _normalised_weights(self) -> Array:
        weights = as_float(self.weights)
        return weights / weights.sum()

    def _posterior(self, x: Points, sigma: Level) -> tuple[Array, Array]:
        """The log-joint of x and each component, and E[x0 given both]."""
        x = as_float(x)
        solved, log_joint = self._solve(x, *alpha_std(sigma, None, x))
        covariances, means = (
            jnp.asarray(a, x.dtype) for a in (self.covariances, self.means)
        )
        drawn = einsum("kij,bkj->bki", covariances, solved)
        return log_joint, means[None] + drawn

    def _solve(self, xt: Array, alpha: Array, std: Array) -> tuple[Array, Array]:
        """S_k^-1 (xt - alpha m_k), [batch, components, dims], and the log-joint."""
        means, covariances, weights = (
            jnp.asarray(a, xt.dtype)[None]
            for a in (self.means, self.covariances, self._normalised_weights())
        )
        alpha, std = alpha.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
        gaps = xt[:, None, :] - alpha * means
        if len(std) == 1:
            solved, log_normal = _by_factors(gaps, alpha**2 * covariances[0], std**2)
        else:
            solved, log_normal = _by_axes(gaps, covariances[0], alpha**2, std**2)
        return solved, jnp.log(weights) + log_normal


def _by_factors(gaps: Array, covariances: Array, noise: Array) -> tuple[Array, Array]:
    """Solve with S_k = C_k + noise I, one level for all, by a factor of each S_k.

    Args:
        gaps: [batch, components, dims].
        covariances: C_k, [components, dims, dims].
        noise: the variance of the noise, a scalar with two axes of length 1.

    Returns:
        S_k^-1 gaps, and log N(gaps; 0, S_k).
    """
    num_dims = gaps.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(num_dims, dtype=gaps.dtype), covariances.shape)
    factors = jnp.linalg.cholesky(covariances + noise * identity)
    # Inverted once, so that many points of one level are cheap.
    inverses = jax.lax.linalg.triangular_solve(
        factors, identity, left_side=True, lower=True
    )
    half = einsum("kij,bkj->bki", inverses, gaps)
    log_det = 2 * jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)).sum(-1)
    constant = log_det + num_dims * math.log(2 * math.pi)
    log_normal = -0.5 * ((half**2).sum(-1) + constant[None])
    return einsum("kji,bkj->bki", inverses, half), log_normal


def _by_axes(
    gaps: Array, covariances: Array, scale: Array, noise: Array
) -> tuple[Array, Array]:
    """Solve with S_k = scale C_k + noise I, a level for each example, by axes of C_k.

    In the axes of C_k the coordinates are independent at every level, so that nothing
    is factorised for each example: thousands of small factorisations in a loop can
    hang XLA's CPU threads (jax 0.10.2). Not differentiable in C_k where its
    eigenvalues are equal.

    Args:
        gaps: [batch, components, dims].
        covariances: C_k, [components, dims, dims].
        scale: what multiplies C_k, [batch, 1, 1].
        noise: the variance of the noise, [batch, 1, 1].

    Returns:
        S_k^-1 gaps, and log N(gaps; 0, S_k).
    """
    values, vectors = jnp.linalg.eigh(covariances)
    variances = scale * values.clip(0)[None] + noise
    along = einsum("bki,kij->bkj", gaps, vectors)
    solved = einsum("bkj,kij->bki", along / variances, vectors)
    log_normal = -0.5 * (along**2 / variances + jnp.log(2 * math.pi * variances))
    return solved, log_normal.sum(-1)


def _average(log_joint: Array, values: Array) -> Array:
    """Mean of values [batch, components, dims] over the posterior of components."""
    return (jax.nn.softmax(log_joint, axis=1)[..., None] * values).sum(1)


def alpha_std(t: Level, sde: SDE | None, x: Array) -> tuple[Array, Array]:
    """Compute (alpha, std) at t, each a scalar or [batch].

    Raises: ValueError for t of another shape, or that the SDE lacks, and for a noise
        level that is none.
    """
    expand_like(t, x)
    if sde is None:
        check_level(t)
        return jnp.ones((), x.dtype), jnp.asarray(t, x.dtype)
    check_time(t, sde.t_max)
    return jnp.asarray(sde.alpha(t), x.dtype), jnp.asarray(sde.std(t), x.dtype)


@pytree
class LabelledMixture(GaussianMixture):
    """A mixture whose components have classes: the conditional law is exact.

    Given class c the weights are w_k p(c given k), and the probability of c given x and
    noise is the mean of p(c given k) over the posterior of k. The condition is
    {"label": int [batch]}; -1, or no condition, is the whole mixture.

    Args:
        means: [components, dims].
        covariances: [components, dims, dims], positive semi-definite.
        weights: [components], positive, of any sum.
        classes: p(c given k), [num_classes, components]; classes may overlap.
    """

    classes: Float[Array, "classes components"]

    def denoise(
        self, x: Points, sigma: Level, cond: Any = None
    ) -> Float[Array, "batch *dims"]:
        """E[x0 given x0 + sigma eps = x and the class]."""
        log_joint, posterior_means = self._posterior(x, sigma)
        if cond is not None:
            log_joint = log_joint + self._log_class(cond["label"], x.dtype)
        return _average(log_joint, posterior_means)

    def log_class(self, x: Points, sigma: Level, cond: Any) -> Float[Array, " batch"]:
        """log p(label given x at noise level sigma) in nats, [batch]."""
        log_joint = self.log_joint(x, sigma)
        log_class = self._log_class(cond["label"], x.dtype)
        return jax.nn.logsumexp(log_joint + log_class, axis=1) - jax.nn.logsumexp(
            log_joint, axis=1
        )

    def given(self, label: int) -> GaussianMixture:
        """The law of x0 given the class."""
        weights = self._normalised_weights() * jnp.asarray(self.classes)[label]
        return GaussianMixture(self.means, self.covariances, weights)

    def _log_class(self, label: Array, dtype: Any) -> Array:
        """log p(label given component), [batch, components]; 0 without a label."""
        label = as_labels(label, len(self.classes))
        known = jnp.log(jnp.asarray(self.classes, dtype))[jnp.maximum(label, 0)]
        return jnp.where((label == NO_LABEL)[:, None], jnp.zeros_like(known), known)
