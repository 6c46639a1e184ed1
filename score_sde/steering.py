"""Sequential Monte Carlo along the reverse process, for laws that were not learned.

Of the laws p_i at noise level sigma, whose denoisers are given, and a reward r of clean
data, the target at every level is

    prod_i p_i(x)^b_i  exp(r)

p^b is a tempered law, p1 p2 a product, p(x given c)^w p(x)^(1 - w), which is
p(x) p(c given x)^w but for a factor, what classifier-free guidance of weight w is meant
to sample from. Mixing scores as
S = sum_i b_i s_i does not sample from it, since noise and powers do not commute.
Particles that move by S and carry weights do (Skreta et al. 2025): with v = sigma^2
falling by dv, a weight grows by

    d log w = 1/2 (|S|^2 - sum_i b_i |s_i|^2) dv

The reward is paid in telescoping parts, r(D(x)) of now less r(D(x)) of before (Singhal
et al. 2025), so that any of its guesses on the way leave the target as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import as_float, sum_over_data
from score_sde.fields import checks_rules
from score_sde.guidance import null_condition
from score_sde.rules import Finite, NonNegative, Positive, Share
from score_sde.samplers.noise import from_key
from score_sde.types import Array, Denoise, Grid, Key, Points, Scalar

Reward = Callable[[Array], Array]
"""Clean data, [batch, *dims] -> log weights, [batch]."""


class Expert(NamedTuple):
    """One factor of the target: p^power."""

    denoise: Denoise
    power: Scalar = 1.0


class Steered(NamedTuple):
    """Particles of the target, and how well they stand for it."""

    x: Array
    """[particles, *dims], at the last noise level."""
    log_weights: Array
    """[particles], whose exponentials sum to one."""
    log_normaliser: Array
    """log of the integral of prod_i p_i^b_i exp(r), a scalar; its exponential has no
    bias but that of the steps."""
    ess: Array
    """Effective sample size after each step, before resampling, [num_steps]."""
    resampled: Array
    """Whether particles were drawn anew after each step, [num_steps]."""
    num_evals: Array
    """Calls of all denoisers together."""

    def mean(self, values: Array) -> Array:
        """Weighted mean over particles of values, [particles, ...]."""
        weights = jnp.exp(self.log_weights).astype(values.dtype)
        return jnp.tensordot(weights, values, axes=1)


def tempered(denoise: Denoise, power: Scalar) -> tuple[Expert, ...]:
    """Experts of the law p^power: sharper than p above 1, flatter below."""
    return (Expert(denoise, power),)


def guided(denoise: Denoise, weight: Scalar) -> tuple[Expert, ...]:
    """Experts of p(x) p(c given x)^weight: the model with and without its condition."""

    def unconditional(x: Array, sigma: Any, cond: Any = None) -> Array:
        return denoise(x, sigma, null_condition(cond))

    return Expert(denoise, weight), Expert(unconditional, 1 - weight)


@checks_rules
def steer(
    key: Key,
    experts: Sequence[Expert],
    x: Points,
    sigmas: Grid,
    *,
    cond: Any = None,
    reward: Reward | None = None,
    pull: Annotated[float, Finite] = 0.0,
    noise: Annotated[Scalar, Positive] = 1.0,
    threshold: Annotated[float, Share] = 0.9,
    floor: Annotated[float, NonNegative] = 0.0,
) -> Steered:
    """Carry weighted particles from noise to the target.

    A step is that of the sampler "dpmpp_2m_sde" with solver_type "heun", of second
    order; with one expert of power 1 and no reward it is that sampler. Particles are
    one group: they are drawn anew from each other, so that a group is what depends on
    its key alone. Several groups, by `jax.vmap` over keys, tell the error: it is larger
    than weights alone would have it, since particles are each other's children.

    Args:
        key: for the noise, of which particle i draws by (key, step, i), and resampling.
        experts: factors of the target, whose powers sum to more than 0.
        x: [particles, *dims], noise of standard deviation sigmas[0]; it is scaled to
            the target's width there.
        sigmas: strictly decreasing, [num_steps + 1]; the last may be 0.
        cond: the condition of all denoisers, or None.
        reward: r; the first expert's prediction stands for clean data on the way.
        pull: how much of the gradient of r(D(x)) is added to S, which the weights take
            back: fewer particles are lost, at the cost of a backward pass.
        noise: the variance of fresh noise, in that of the reverse SDE; S is multiplied
            by (1 + noise) / 2 to make up for it, and the weights stay as they are.
            Above 1 particles forget sooner where they came from, so that weights vary
            less, and need smaller steps.
        threshold: particles are drawn anew where the effective sample size is below
            this share of them; 0 for never, 1 for always.
        floor: below this noise level they are not drawn anew.

    Raises: ValueError for powers that sum to 0 or less, and options that break a rule.
    """
    experts, x = tuple(experts), as_float(x)
    powers = jnp.asarray([e.power for e in experts], x.dtype)
    _check_powers(experts)
    total = powers.sum()
    noise = jnp.asarray(noise, x.dtype)
    rate = total * (1 + noise) / 2
    sigmas = jnp.asarray(sigmas, x.dtype)
    key_noise, key_choice = jr.split(key)
    draw = from_key(key_noise, x)
    num, size = len(x), math.prod(x.shape[1:])

    def look(x: Array, sigma: Array) -> _Seen:
        denoised = [as_float(e.denoise(x, sigma, cond)) for e in experts]
        scores = [(d - x) / sigma**2 for d in denoised]
        mixed = jnp.tensordot(powers, jnp.stack(scores), axes=1)
        squares = jnp.stack([sum_over_data(s**2) for s in scores])
        growth = 0.5 * (sum_over_data(mixed**2) - powers @ squares)
        paid = jnp.zeros(num, x.dtype) if reward is None else reward(denoised[0])
        return _Seen(x + sigma**2 / total * mixed, growth, paid)

    def towards(x: Array, sigma: Array) -> Array:
        if reward is None or not pull:
            return jnp.zeros_like(x)
        promised = lambda x: reward(experts[0].denoise(x, sigma, cond)).sum()  # noqa: E731
        return pull * jax.grad(promised)(x)

    def body(carry: tuple[Array, Array, _Seen, Array, Array], k: Array) -> Any:
        x, log_w, seen, old, log_z = carry
        sigma, below = sigmas[k], sigmas[k + 1]
        last, push = below == 0, towards(x, sigma)
        safe_below = jnp.where(last, 0.5 * sigma, below)
        # x moves by A (D - x) dv / v, D linear in log sigma through the last two.
        before = sigmas[jnp.maximum(k - 1, 0)]
        passed = 2 * jnp.log(sigma / safe_below)
        carried = jnp.where(last, 0.0, jnp.exp(-rate * passed))
        slope = (seen.denoised - old) / jnp.where(
            k > 0, 2 * jnp.log(before / sigma), 1.0
        )
        bent = jnp.where((k > 0) & ~last, passed - (1 - carried) / rate, 0.0)
        mean = carried * x + (1 - carried) * seen.denoised + bent * slope
        std = jnp.where(last, 0.0, _step_std(sigma, safe_below, rate))
        std = std * jnp.sqrt(noise)
        shift = jnp.where(last, 0.0, sigma**2 - below**2) * push
        fresh = std * draw(k, sigma, below)
        moved = mean + shift + fresh
        # The law of the step without the push over that with it.
        safe = jnp.where(last, 1.0, std)
        less = -sum_over_data(shift * fresh) - 0.5 * sum_over_data(shift**2)
        log_w = log_w + jnp.where(last, 0.0, less / safe**2)
        now = jax.lax.cond(
            last,
            lambda: seen._replace(paid=_paid(reward, moved)),
            lambda: look(moved, safe_below),
        )
        # By the trapezium in log v, in which the rate times v is smooth.
        both = 0.5 * (seen.growth * sigma**2 + now.growth * safe_below**2)
        log_w = log_w + jnp.where(last, seen.growth * sigma**2, both * passed)
        log_w = log_w + now.paid - seen.paid
        ess = effective_size(log_w)
        # Only where there is a level below: the last weights are the result's.
        again = (ess < threshold * num) & (below >= floor) & (k < len(sigmas) - 2)
        chosen = systematic(jr.fold_in(key_choice, k), log_w)
        index = jnp.where(again, chosen, jnp.arange(num, dtype=chosen.dtype))
        level = jax.nn.logsumexp(log_w) - math.log(num)
        parts = (moved, now, seen.denoised)
        moved, now, old = jax.tree.map(lambda a: a[index], parts)
        log_z = log_z + jnp.where(again, level, 0.0)
        log_w = jnp.where(again, 0.0, log_w)
        return (moved, log_w, now, old, log_z), (ess, again)

    start = x / jnp.sqrt(total)
    # log of the integral of N(x; 0, v)^total.
    log_z = (
        -0.5
        * size
        * ((total - 1) * jnp.log(2 * math.pi * sigmas[0] ** 2) + jnp.log(total))
    )
    seen = look(start, sigmas[0])
    carry = (start, seen.paid, seen, seen.denoised, log_z)
    steps = jnp.arange(len(sigmas) - 1)
    (x, log_w, _, _, log_z), (ess, again) = jax.lax.scan(body, carry, steps)
    whole = jax.nn.logsumexp(log_w)
    levels = (sigmas > 0).sum() * (len(experts) + (reward is not None and pull != 0))
    return Steered(x, log_w - whole, log_z + whole - math.log(num), ess, again, levels)


def _step_std(sigma: Array, below: Array, rate: Array) -> Array:
    """Standard deviation of what a step adds, where x is pulled at a rate A.

    Its variance is the integral of (w / v)^(2 A), w = below^2, over v up from w.
    """
    power, ratio = 2 * rate - 1, (below / sigma) ** 2
    near_zero = jnp.abs(power) < 1e-6
    safe = jnp.where(near_zero, 1.0, power)
    spread = jnp.where(
        near_zero, -jnp.log(ratio), -jnp.expm1(safe * jnp.log(ratio)) / safe
    )
    return below * jnp.sqrt(spread)


class _Seen(NamedTuple):
    """What a step reads of the particles where it begins."""

    denoised: Array
    """The mean of the predictions, by powers, shaped like x."""
    growth: Array
    """d log w / dv, [particles]."""
    paid: Array
    """The reward of what is predicted, [particles]."""


def _paid(reward: Reward | None, x: Array) -> Array:
    return jnp.zeros(len(x), x.dtype) if reward is None else reward(x)


def _check_powers(experts: Sequence[Expert]) -> None:
    powers = [e.power for e in experts]
    if all(isinstance(p, (int, float)) for p in powers):
        total = sum(float(p) for p in powers)
        if not (math.isfinite(total) and total > 0):
            raise ValueError(f"powers must sum to more than 0, got {powers}.")


def effective_size(log_weights: Array) -> Array:
    """(sum w)^2 / sum w^2: how many particles of equal weight say as much."""
    twice = 2 * jax.nn.logsumexp(log_weights)
    return jnp.exp(twice - jax.nn.logsumexp(2 * log_weights))


def systematic(key: Key, log_weights: Array) -> Array:
    """Draw as many particles by their weights: an even comb with one random shift.

    Particle i is drawn floor or ceil(n w_i) times (Kitagawa 1996).
    """
    num = len(log_weights)
    edges = jnp.cumsum(jax.nn.softmax(log_weights))
    comb = (jnp.arange(num, dtype=edges.dtype) + jr.uniform(key, (), edges.dtype)) / num
    return jnp.searchsorted(edges / edges[-1], comb).clip(0, num - 1)


def resample(key: Key, steered: Steered) -> Array:
    """Particles of equal weight, [particles, *dims], drawn from weighted ones."""
    return steered.x[systematic(key, steered.log_weights)]
