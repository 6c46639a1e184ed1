"""Distributions of the noise level by their shape in log sigma."""

from __future__ import annotations

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Float

from score_sde.fields import pytree, require
from score_sde.noise_levels.levels import NoiseLevels
from score_sde.rules import Finite, Positive
from score_sde.types import Array


@pytree
class LogLogistic(NoiseLevels):
    """log sigma has a logistic distribution, cut off at two levels.

    Args:
        mean: of log sigma, before it is cut.
        scale: of the logistic distribution.
        sigma_min: the lowest level.
        sigma_max: the highest level.
    """

    mean: Annotated[float, Finite] = math.log(0.5)
    scale: Annotated[float, Positive] = 0.5
    sigma_min: Annotated[float, Positive] = 0.001
    sigma_max: Annotated[float, Positive] = 1000.0

    def __post_init__(self) -> None:
        require(self, ("sigma_min < sigma_max", lambda d: d.sigma_min < d.sigma_max))

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        low, high = self._ends()
        share = low + u * (high - low)
        return jnp.exp(self.mean + self.scale * jax.scipy.special.logit(share))

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        low, high = self._ends()
        whole = jax.scipy.stats.logistic.pdf(jnp.log(sigma), self.mean, self.scale)
        return whole / (high - low)

    def _ends(self) -> tuple[Array, Array]:
        """The distribution function before the cut, at both levels."""
        low, high = (
            jax.nn.sigmoid((jnp.log(s) - self.mean) / self.scale)
            for s in (self.sigma_min, self.sigma_max)
        )
        return low, high


@pytree
class SplitLogNormal(NoiseLevels):
    """log sigma is normal with one width below its mode and another above.

    Args:
        mode: of log sigma.
        std_low: standard deviation below it.
        std_high: standard deviation above it.
    """

    mode: Annotated[float, Finite] = -1.2
    std_low: Annotated[float, Positive] = 1.2
    std_high: Annotated[float, Positive] = 1.2

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        total = self.std_low + self.std_high
        below = u < self.std_low / total
        # Each side is a half of a normal, scaled to its share.
        left = jnp.where(below, 0.5 * u * total / self.std_low, 0.25)
        right = jnp.where(below, 0.25, 0.5 * (1 - u) * total / self.std_high)
        low = self.std_low * jax.scipy.special.ndtri(left)
        high = -self.std_high * jax.scipy.special.ndtri(right)
        return jnp.exp(self.mode + jnp.where(below, low, high))

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        gap = jnp.log(sigma) - self.mode
        std = jnp.where(gap < 0, self.std_low, self.std_high)
        peak = 2 / ((self.std_low + self.std_high) * math.sqrt(2 * math.pi))
        return peak * jnp.exp(-0.5 * (gap / std) ** 2)


@pytree
class CosineInterpolated(NoiseLevels):
    """Cosine schedules shifted for two sizes of noise, one an end (Hoogeboom 2023).

    With t uniform from noise to data, the log signal-to-noise ratio is (1 - t) that of
    a schedule shifted by 2 log(noise_low / image_size) and t that shifted by
    2 log(noise_high / image_size), each -2 log tan of a line between its ends.

    Args:
        image_size: pixels to a side.
        noise_low: the size whose noise it is at high levels, such as 32.
        noise_high: the size whose noise it is at low levels.
        sigma_data: standard deviation of the data, in which the levels are counted.
        sigma_min: the lowest level.
        sigma_max: the highest level.
    """

    image_size: Annotated[int, Positive] = 64
    noise_low: Annotated[float, Positive] = 32.0
    noise_high: Annotated[float, Positive] = 64.0
    sigma_data: Annotated[float, Positive] = 0.5
    sigma_min: Annotated[float, Positive] = 0.001
    sigma_max: Annotated[float, Positive] = 1000.0

    def __post_init__(self) -> None:
        require(self, ("sigma_min < sigma_max", lambda d: d.sigma_min < d.sigma_max))

    def quantile(self, u: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        return jnp.exp(self._log_sigma(u))

    def density(self, sigma: Float[Array, "*draws"]) -> Float[Array, "*draws"]:
        log_sigma = jnp.log(jnp.asarray(sigma))

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = 0.5 * (low + high)
            above = self._log_sigma(middle) > log_sigma
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        zero = jnp.zeros_like(log_sigma)
        # As many halvings as a float64 tells apart.
        u, _ = jax.lax.fori_loop(0, 55, halve, (zero, zero + 1))
        _, slope = jax.jvp(self._log_sigma, (u,), (jnp.ones_like(u),))
        return 1 / slope

    def _log_sigma(self, u: Array) -> Array:
        """The quantile of log sigma, in which u rises from data to noise."""
        low, high = (self._shifted(u, d) for d in (self.noise_low, self.noise_high))
        return math.log(self.sigma_data) + u * low + (1 - u) * high

    def _shifted(self, u: Array, noise_size: float) -> Array:
        """log(sigma / sigma_data) of a cosine schedule for noise of this size."""
        shift = math.log(noise_size / self.image_size)
        ends = (
            math.atan(s / self.sigma_data * math.exp(shift))
            for s in (self.sigma_min, self.sigma_max)
        )
        low, high = ends
        return jnp.log(jnp.tan(low + u * (high - low))) - shift
