"""Distributions of the noise level sigma in training, each with its density.

All are given by their quantile function and by their density in log sigma, the measure
in which any two can be compared. `draw` takes independent uniforms; with
`stratified=True` the uniforms of a batch are one random shift of an even grid, which
lowers the variance of the loss (Kingma et al. 2021, app. I.1).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from score_sde.arrays import example_keys, place_in_batch
from score_sde.fields import pytree, require, static
from score_sde.rules import Finite, Positive, Share, at_least
from score_sde.sde import SDE
from score_sde.types import Array, Key, Params, Scalar


@pytree
class NoiseLevels:
    """A distribution of the noise level sigma, by quantile function and density."""

    stratified: bool = static(default=False, kw_only=True)

    estimates_bound: ClassVar[bool] = False
    """True if sigma is drawn so that, with a weight of the bound, the loss estimates
    the variational bound on -log p without further factors of sigma."""

    def init(self) -> Params | None:
        """Make the parameters before training; None if there is nothing to learn."""
        return None

    def with_params(self, params: Params | None) -> NoiseLevels:
        """Return the distribution that has these parameters."""
        del params
        return self

    @property
    def reference(self) -> NoiseLevels | None:
        """The distribution that defines the objective, if its own density is learned.

        The loss is then multiplied by the ratio of their densities, so that what is
        minimised does not move while the distribution learns. None if it is itself.
        """
        return None

    @abstractmethod
    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        """The sigma below which a share u in (0, 1) of all draws lies, [batch]."""

    @abstractmethod
    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        """Probability density of log sigma at sigma, [batch]."""

    def surrogate(
        self, sigma: Float[Array, " batch"], loss: Float[Array, " batch"]
    ) -> Float[Array, " batch"]:
        """A term of value 0 whose gradient trains the distribution.

        Added to the loss, it moves the density so that the loss has less variance.

        Args:
            sigma: noise levels, [batch].
            loss: the losses at these levels, [batch], importance weights included.

        Returns:
            Zeros, [batch].
        """
        del sigma
        return jnp.zeros_like(loss)

    def draw(self, key: Key, batch: int) -> Float[Array, " {batch}"]:
        """Draw [batch] noise levels; example i depends on (key, i), or on the shift."""
        if self.stratified:
            numbers, total, _ = place_in_batch(batch)
            u = (jr.uniform(key) + numbers / total) % 1.0
        else:
            u = jax.vmap(jr.uniform)(example_keys(key, batch))
        # No draw is exactly 0, whose quantile may be infinite.
        return self.quantile(jnp.maximum(u, jnp.finfo(u.dtype).tiny))


@pytree
class UniformTime(NoiseLevels):
    """sigma(t) of an SDE at t uniform on [t_min, t_max] (Song et al. 2021, eq. 7)."""

    sde: SDE

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return self.sde.sigma(self.sde.t_min + u * (self.sde.t_max - self.sde.t_min))

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        t = self.sde.t_from_sigma(sigma)
        # d sigma^2 / dt = g^2 / alpha^2, hence d log sigma / dt.
        rate = 0.5 * self.sde.diffusion_squared(t) / (self.sde.alpha(t) * sigma) ** 2
        return 1 / (rate * (self.sde.t_max - self.sde.t_min))


@pytree
class LogNormal(NoiseLevels):
    """log sigma ~ N(mean, std^2) (Karras et al. 2022, table 1: P_mean, P_std)."""

    mean: Annotated[float, Finite] = -1.2
    std: Annotated[float, Positive] = 1.2

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return jnp.exp(self.mean + self.std * jax.scipy.special.ndtri(u))

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return jax.scipy.stats.norm.pdf(jnp.log(sigma), self.mean, self.std)


@pytree
class LogUniform(NoiseLevels):
    """log sigma uniform between two levels.

    This is importance sampling for the likelihood weighting of any SDE between these
    levels: g^2 / std^2 of Song et al. 2021b (eq. 12) is d log sigma^2 / dt.
    """

    sigma_min: Annotated[Scalar, Positive] = 0.002
    sigma_max: Annotated[Scalar, Positive] = 80.0

    def __post_init__(self) -> None:
        require(self, ("sigma_min < sigma_max", lambda d: d.sigma_min < d.sigma_max))

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return self.sigma_min * jnp.power(self.sigma_max / self.sigma_min, u)

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return jnp.full_like(sigma, 1 / jnp.log(self.sigma_max / self.sigma_min))


@pytree
class LikelihoodImportance(NoiseLevels):
    """Importance sampling for the likelihood weighting of an SDE: uniform log sigma.

    The ends are those of the SDE, and computed when they are needed: a config is built
    before any device is touched.
    """

    sde: SDE

    estimates_bound: ClassVar[bool] = True

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return self._between().quantile(u)

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return self._between().density(sigma)

    def _between(self) -> LogUniform:
        return LogUniform(
            self.sde.sigma(self.sde.t_min), self.sde.sigma(self.sde.t_max)
        )


@pytree
class Learned(NoiseLevels):
    """A learned monotone schedule between the ends of an SDE (Kingma et al. 2021).

    log sigma as a function of uniform u is piecewise linear and rises from one end to
    the other, both exact, whatever the parameters: its inverse is the distribution
    function of a histogram of log sigma with equal bins, of probabilities
    softmax(logits).

    The bound doesn't depend on the schedule, but the variance of its estimate
    L = f / density does. The schedule minimises E[L^2] (sec. 5.2): for a fixed sigma
    its gradient is that of -L^2 log density, which asks nothing of the network.

    Args:
        sde: its ends are those of the schedule.
        num_bins: the number of pieces.
        logits: the parameters, [num_bins]; None before training, log sigma uniform.
    """

    sde: SDE
    num_bins: Annotated[int, at_least(1)] = static(default=32)
    logits: Array | None = None

    estimates_bound: ClassVar[bool] = True

    def init(self) -> Float[Array, " num_bins"]:
        """Make the logits of a uniform log sigma, [num_bins]."""
        return jnp.zeros(self.num_bins, jnp.float32)

    def with_params(self, params: Params | None) -> NoiseLevels:
        return dataclasses.replace(self, logits=params)

    def fitted(
        self,
        sigma: Float[Array, " examples"],
        loss: Float[Array, " examples"],
        *,
        uniform_share: Annotated[float, Share] = 0.001,
        least: Annotated[int, at_least(1)] = 10,
    ) -> Learned:
        """Return the schedule that losses at these levels ask for, without training.

        A bin is as likely as the root of its mean squared loss, which is where the
        gradient of `surrogate` leads too: the resampler by second moments of Nichol and
        Dhariwal 2021 (sec. 3.3), on bins of log sigma. Uniform as long as any bin has
        seen too little. No config does this: it is for a training loop of one's own,
        whose next noise levels are those of the result; a config learns the schedule by
        gradients.

        Args:
            sigma: noise levels, [examples].
            loss: the losses at these levels, [examples], without importance weights.
            uniform_share: of all probability, shared evenly.
            least: losses that a bin must have seen.
        """
        low, high = self._ends()
        share = (jnp.log(jnp.asarray(sigma)) - low) / (high - low)
        index = jnp.clip(jnp.floor(share * self.num_bins), 0, self.num_bins - 1)
        inside = jax.nn.one_hot(index.astype(int), self.num_bins, dtype=loss.dtype)
        count, squares = inside.sum(0), (inside * loss[:, None] ** 2).sum(0)
        root = jnp.sqrt(squares / jnp.maximum(count, 1))
        root = jnp.where((count >= least).all(), root, jnp.ones_like(root))
        even = uniform_share / self.num_bins
        probability = (1 - uniform_share) * root / root.sum() + even
        return dataclasses.replace(self, logits=jnp.log(probability))

    @property
    def reference(self) -> NoiseLevels:
        return LikelihoodImportance(self.sde)

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        probability = jax.lax.stop_gradient(self._probability()).astype(u.dtype)
        edges = jnp.concatenate([jnp.zeros(1, u.dtype), jnp.cumsum(probability)])
        # The sum of probabilities is one but for rounding.
        edges = edges.at[-1].set(1)
        low, high = self._ends()
        log_sigmas = jnp.linspace(low, high, self.num_bins + 1).astype(u.dtype)
        return jnp.exp(jnp.interp(u, edges, log_sigmas))

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return jax.lax.stop_gradient(self._density(sigma))

    def surrogate(
        self, sigma: Float[Array, " batch"], loss: Float[Array, " batch"]
    ) -> Float[Array, " batch"]:
        surprise = -jnp.log(self._density(jax.lax.stop_gradient(sigma)))
        term = jax.lax.stop_gradient(loss) ** 2 * surprise
        return term - jax.lax.stop_gradient(term)

    def _probability(self) -> Array:
        return jax.nn.softmax(self.init() if self.logits is None else self.logits)

    def _density(self, sigma: Array) -> Array:
        low, high = self._ends()
        share = (jnp.log(sigma) - low) / (high - low)
        index = jnp.clip(jnp.floor(share * self.num_bins), 0, self.num_bins - 1)
        probability = self._probability()[index.astype(int)]
        return (probability * self.num_bins).astype(sigma.dtype) / (high - low)

    def _ends(self) -> tuple[Array, Array]:
        ends = jnp.asarray([self.sde.t_min, self.sde.t_max])
        low, high = jnp.log(self.sde.sigma(ends))
        return low, high


@pytree
class Ladder(NoiseLevels):
    """A discrete, increasing ladder of levels, equally likely (Song and Ermon 2019).

    Its density is that of the histogram with one bar per level, half-way in log sigma
    to either neighbour: against a continuous distribution the sum over the ladder is
    the midpoint rule for the integral.

    Args:
        sigmas: the levels, [levels], at least two, positive and increasing.

    Raises: ValueError for other levels, unless they are a JAX array.
    """

    sigmas: Array | tuple[float, ...]

    def __post_init__(self) -> None:
        if isinstance(self.sigmas, (tuple, list, np.ndarray)):
            steps = np.diff(np.asarray(self.sigmas, float), prepend=0.0)
            if len(steps) < 2 or not (steps > 0).all():
                raise ValueError(
                    f"Ladder needs at least two increasing positive sigmas, "
                    f"got {self.sigmas}."
                )

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        sigmas = jnp.asarray(self.sigmas)
        index = jnp.floor(u * len(sigmas)).astype(int)
        return sigmas[jnp.clip(index, 0, len(sigmas) - 1)]

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        log_sigmas = jnp.log(jnp.asarray(self.sigmas, sigma.dtype))
        middles = 0.5 * (log_sigmas[1:] + log_sigmas[:-1])
        ends = jnp.stack(
            [2 * log_sigmas[0] - middles[0], 2 * log_sigmas[-1] - middles[-1]]
        )
        edges = jnp.concatenate([ends[:1], middles, ends[1:]])
        bar = jnp.searchsorted(middles, jnp.log(sigma))
        return 1 / (len(log_sigmas) * jnp.diff(edges)[bar])
