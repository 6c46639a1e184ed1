"""Pairs of neighbouring noise levels for consistency models, and how they change.

Curricula are pure functions of the step. A ladder of N levels has N - 1 pairs of
neighbours; pair 0 is the highest.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from score_sde.arrays import as_float, example_keys, per_example
from score_sde.types import Array, Key, Scalar


class Ladder(NamedTuple):
    """Levels evenly spaced in sigma^(1/rho), of a number that may be traced."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def level(self, share: Any) -> Any:
        """The level at a share of the way from sigma_max, 0, to sigma_min, 1."""
        high, low = (s ** (1 / self.rho) for s in (self.sigma_max, self.sigma_min))
        return (high + share * (low - high)) ** self.rho

    def pair(self, index: Array, num_levels: Scalar) -> tuple[Array, Array]:
        """The levels of pair `index`, in 0 .. num_levels - 2, and of its neighbour."""
        index, gaps = as_float(index), as_float(num_levels) - 1
        return self.level(index / gaps), self.level((index + 1) / gaps)


# Consistency models (Song et al. 2023, app. C).


def growing_levels(step: Scalar, num_steps: int, *, first: int, last: int) -> Array:
    """The number of levels N(k), which grows as the root of the step.

    ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1, from s0 = `first` levels on.
    """
    grown = as_float(step) / num_steps * ((last + 1) ** 2 - first**2) + first**2
    return jnp.maximum(jnp.ceil(jnp.sqrt(grown) - 1), 1) + 1


def target_decay(num_levels: Array, *, first: int, start: float) -> Array:
    """The decay mu(k) of the target's average: exp(s0 log mu0 / (N(k) - 1))."""
    return jnp.exp(first * math.log(start) / (as_float(num_levels) - 1))


def draw_uniform_pair(
    key: Key, batch: int, ladder: Ladder, num_levels: Scalar
) -> tuple[Array, Array]:
    """Draw pairs of neighbours with equal probabilities: (sigma, lower), [batch]."""
    gaps = as_float(num_levels) - 1
    index = jnp.floor(_uniform(key, batch) * gaps)
    return ladder.pair(jnp.minimum(index, gaps - 1), num_levels)


# Improved consistency training (Song and Dhariwal 2024).


def doubling_levels(step: Scalar, num_steps: int, *, first: int, last: int) -> Array:
    """The number of levels, doubled as often as leads from s0 + 1 to s1 + 1 (eq. 12).

    min(s0 2^floor(k/K'), s1) + 1, K' = floor(K / (log2 floor(s1/s0) + 1)).
    """
    each = math.floor(num_steps / (math.log2(last // first) + 1))
    doublings = jnp.floor(as_float(step) / max(each, 1))
    return jnp.minimum(first * 2.0**doublings, float(last)) + 1


def log_normal_probabilities(
    ladder: Ladder, num_levels: int, *, mean: float, std: float
) -> Float[Array, " pairs"]:
    """The probability of each pair: a log-normal's mass between its levels.

    Proportional to erf((log sigma - mean)/(sqrt(2) std)) - erf(of its neighbour), the
    highest pair first (eq. 10).
    """
    share = jnp.linspace(0, 1, num_levels)
    mass = _normal_mass(jnp.log(ladder.level(share)), mean, std)
    return -jnp.diff(mass) / (mass[0] - mass[-1])


def draw_log_normal_pair(
    key: Key,
    batch: int,
    ladder: Ladder,
    num_levels: Scalar,
    *,
    mean: float,
    std: float,
) -> tuple[Array, Array]:
    """Draw pairs by `log_normal_probabilities`, of a number of levels that is traced.

    The level within which a log-normal number falls has just these probabilities.
    """
    low, high = (
        _normal_mass(math.log(s), mean, std)
        for s in (ladder.sigma_min, ladder.sigma_max)
    )
    u = low + _uniform(key, batch) * (high - low)
    sigma = jnp.exp(mean + std * jax.scipy.special.ndtri(u))
    top, bottom = (s ** (1 / ladder.rho) for s in (ladder.sigma_max, ladder.sigma_min))
    gaps = as_float(num_levels) - 1
    place = (top - sigma ** (1 / ladder.rho)) / (top - bottom) * gaps
    return ladder.pair(jnp.clip(jnp.floor(place), 0, gaps - 1), num_levels)


def _normal_mass(log_sigma: Scalar, mean: float, std: float) -> Array:
    return jax.scipy.special.ndtr((as_float(log_sigma) - mean) / std)


def _uniform(key: Key, batch: int) -> Array:
    """Uniform numbers [batch], each a function of (key, example)."""
    return per_example(jr.uniform, example_keys(key, batch), jnp.zeros(batch))


# Consistency tuning (Geng et al. 2025).


def shrinking_gap(
    sigma: Array, stage: Scalar, *, factor: float, steepness: float, slope: float = 1.0
) -> Array:
    """The lower level: sigma (1 - q^-(stage + 1) (1 + k sigmoid(-b sigma))), or 0.

    At stage 0 it is 0 for small sigma, where the loss is that of a denoiser; each stage
    brings the two levels nearer.

    Args:
        sigma: the upper level.
        stage: from 0 on.
        factor: q, by which the gap shrinks with each stage.
        steepness: k; 0 for the same share at all levels.
        slope: b.
    """
    widened = 1 + steepness * jax.nn.sigmoid(-slope * sigma)
    gap = factor ** -(jnp.asarray(stage, sigma.dtype) + 1) * widened
    return jnp.maximum(sigma * (1 - gap), 0)


# Progressive distillation (Salimans and Ho 2022).


def halving_steps(
    step: Scalar, num_steps: int, *, first: int, last: int = 1, slow: int = 2
) -> Array:
    """The number of steps of the student, halved in stages from first to last.

    Args:
        step: of training.
        num_steps: of training.
        first: the number of steps in the first stage, `last` times a power of two.
        last: the number in the last stage.
        slow: stages of so many steps or fewer are twice as long as the others.
    """
    counts = first / 2.0 ** np.arange(1 + round(math.log2(first / last)))
    lengths = np.where(counts <= slow, 2, 1)
    ends = np.cumsum(lengths)[:-1] * (num_steps / lengths.sum())
    return jnp.asarray(counts)[(as_float(step) >= jnp.asarray(ends)).sum()]
