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

from score_sde.arrays import as_float, matmul, sum_over_data, tensordot
from score_sde.checks import check_grid, known_values
from score_sde.fields import checks_rules
from score_sde.guidance import null_condition
from score_sde.rules import Finite, NonNegative, Positive, Share
from score_sde.samplers.noise import from_key
from score_sde.samplers.steps import Draw
from score_sde.types import Array, Denoise, Grid, Key, Points, Scalar

Reward = Callable[[Array], Array]
"""Clean data, [batch, *dims] -> log weights, [batch]; -inf for what may not be."""


class Expert(NamedTuple):
    """One factor of the target: p^power."""

    denoise: Denoise
    power: Scalar = 1.0


class Steered(NamedTuple):
    """Particles of the target, and how well they stand for it."""

    x: Array
    """[particles, *dims], at the last noise level."""
    log_weights: Array
    """[particles], whose exponentials sum to one; NaN if the reward of all is -inf."""
    log_normaliser: Array
    """log of the integral of prod_i p_i^b_i exp(r), a scalar; its exponential has no
    bias but that of the steps. -inf if no particle is left."""
    ess: Array
    """Effective sample size after each step, before resampling, [num_steps]."""
    resampled: Array
    """Whether particles were drawn anew after each step, [num_steps]."""
    num_evals: Array
    """Calls of all denoisers together."""

    def mean(self, values: Array) -> Array:
        """Weighted mean over particles of values, [particles, ...]."""
        weights = jnp.exp(self.log_weights).astype(values.dtype)
        return tensordot(weights, values, axes=1)


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
        reward: r; the first expert's prediction stands for clean data on the way,
            where -inf counts as 0: a particle may still come to what is allowed.
        pull: how much of the gradient of r(D(x)) is added to S, which the weights take
            back: fewer particles are lost, at the cost of a backward pass.
        noise: the variance of fresh noise, in that of the reverse SDE; S is multiplied
            by (1 + noise) / 2 to make up for it, and the weights stay as they are.
            Above 1 particles forget sooner where they came from, so that weights vary
            less, and need smaller steps.
        threshold: particles are drawn anew where the effective sample size is below
            this share of them; 0 for never, 1 for always.
        floor: below this noise level they are not drawn anew.

    Raises: ValueError for powers that sum to 0 or less, a grid that does not decrease,
        and options that break a rule.
    """
    x = as_float(x)
    check_grid(sigmas)
    _check_powers(experts)
    draw_key, choice_key = jr.split(key)
    powers = jnp.asarray([e.power for e in experts], x.dtype)
    levels, noise = (jnp.asarray(a, x.dtype) for a in (sigmas, noise))
    draw = from_key(draw_key, x)
    again = _Resampling(choice_key, threshold, floor)
    process = _Process(tuple(experts), powers, noise, levels, cond, reward, pull, draw)
    return _followed(process, again, x)


class _Resampling(NamedTuple):
    """When particles are drawn anew, and by which key."""

    key: Key
    threshold: float
    floor: float


def _followed(process: _Process, resampling: _Resampling, x: Array) -> Steered:
    """Carry particles over the whole grid; the arguments are those of `steer`."""
    num = len(x)

    def body(carry: tuple[Array, Array, _Seen, Array, Array], k: Array) -> Any:
        x, log_w, seen, old, log_z = carry
        # Only where there is a level below: the last weights are the result's.
        is_last = k >= len(process.sigmas) - 2
        moved, less = process.move(x, seen, old, k)
        now, more = process.look_after(moved, seen, k, is_last)
        log_w = log_w + less + more
        ess, below = effective_size(log_w), process.sigmas[k + 1]
        again = (ess < resampling.threshold * num) & (below >= resampling.floor)
        again &= ~is_last
        chosen = systematic(jr.fold_in(resampling.key, k), log_w)
        index = jnp.where(again, chosen, jnp.arange(num, dtype=chosen.dtype))
        level = jax.nn.logsumexp(log_w) - math.log(num)
        parts = (moved, now, seen.denoised)
        moved, now, old = jax.tree.map(lambda a: a[index], parts)
        log_z = log_z + jnp.where(again, level, 0.0)
        return (moved, jnp.where(again, 0.0, log_w), now, old, log_z), (ess, again)

    start = x / jnp.sqrt(process.powers.sum())
    seen = _hopeful(process.look(start, process.sigmas[0]))
    log_z = process.log_normaliser(math.prod(x.shape[1:]))
    carry = (start, seen.paid, seen, seen.denoised, log_z)
    steps = jnp.arange(len(process.sigmas) - 1)
    (x, log_w, _, _, log_z), (ess, again) = jax.lax.scan(body, carry, steps)
    whole = jax.nn.logsumexp(log_w)
    log_z = log_z + whole - math.log(num)
    return Steered(x, log_w - whole, log_z, ess, again, process.num_evals)


class _Seen(NamedTuple):
    """Predictions and rewards at the particles, from which a step is taken."""

    denoised: Array
    """The mean of the predictions, by powers, shaped like x."""
    growth: Array
    """d log w / dv, [particles]."""
    paid: Array
    """The reward of what is predicted, [particles]."""


class _Process(NamedTuple):
    """How particles move, and what a move does to their weights."""

    experts: tuple[Expert, ...]
    powers: Array
    noise: Array
    sigmas: Array
    cond: Any
    reward: Reward | None
    pull: float
    draw: Draw

    @property
    def rate(self) -> Array:
        """The rate A at which x is pulled to the prediction."""
        return self.powers.sum() * (1 + self.noise) / 2

    @property
    def num_evals(self) -> Array:
        """Calls of all denoisers together."""
        pulls = self.reward is not None and self.pull != 0
        return (self.sigmas > 0).sum() * (len(self.experts) + pulls)

    def log_normaliser(self, size: int) -> Array:
        """log of the integral of N(x; 0, v)^total, in so many dimensions."""
        total = self.powers.sum()
        log_width = jnp.log(2 * math.pi * self.sigmas[0] ** 2)
        return -0.5 * size * ((total - 1) * log_width + jnp.log(total))

    def look(self, x: Array, sigma: Array) -> _Seen:
        """Evaluate the denoisers."""
        denoised = [as_float(e.denoise(x, sigma, self.cond)) for e in self.experts]
        scores = [(d - x) / sigma**2 for d in denoised]
        mixed = tensordot(self.powers, jnp.stack(scores), axes=1)
        squares = jnp.stack([sum_over_data(s**2) for s in scores])
        growth = 0.5 * (sum_over_data(mixed**2) - matmul(self.powers, squares))
        moved = x + sigma**2 / self.powers.sum() * mixed
        return _Seen(moved, growth, _paid(self.reward, denoised[0]))

    def towards(self, x: Array, sigma: Array) -> Array:
        """The part of the reward's gradient that is added to S."""
        reward = self.reward
        if reward is None or not self.pull:
            return jnp.zeros_like(x)

        def promised(x: Array) -> Array:
            return reward(self.experts[0].denoise(x, sigma, self.cond)).sum()

        return self.pull * jax.grad(promised)(x)

    def levels(self, k: Array) -> tuple[Array, Array, Array]:
        """(sigma, the level below, a level above 0 in its place) of step k."""
        sigma, below = self.sigmas[k], self.sigmas[k + 1]
        return sigma, below, jnp.where(below == 0, 0.5 * sigma, below)

    def move(self, x: Array, seen: _Seen, old: Array, k: Array) -> tuple[Array, Array]:
        """Move particles by step k: (x, what the push adds to their log weights)."""
        sigma, below, safe_below = self.levels(k)
        last, rate, push = below == 0, self.rate, self.towards(x, sigma)
        # x moves by A (D - x) dv / v, D linear in log sigma through the last two.
        before = self.sigmas[jnp.maximum(k - 1, 0)]
        passed = 2 * jnp.log(sigma / safe_below)
        carried = jnp.where(last, 0.0, jnp.exp(-rate * passed))
        gap = jnp.where(k > 0, 2 * jnp.log(before / sigma), 1.0)
        slope = (seen.denoised - old) / gap
        bent = jnp.where((k > 0) & ~last, passed - (1 - carried) / rate, 0.0)
        mean = carried * x + (1 - carried) * seen.denoised + bent * slope
        std = jnp.where(last, 0.0, _step_std(sigma, safe_below, rate))
        std = std * jnp.sqrt(self.noise)
        shift = jnp.where(last, 0.0, sigma**2 - below**2) * push
        fresh = std * self.draw(k, sigma, below)
        # The law of the step without the push over that with it.
        safe = jnp.where(last, 1.0, std)
        less = -sum_over_data(shift * fresh) - 0.5 * sum_over_data(shift**2)
        return mean + shift + fresh, jnp.where(last, 0.0, less / safe**2)

    def look_after(
        self, moved: Array, seen: _Seen, k: Array, is_last: Array
    ) -> tuple[_Seen, Array]:
        """Look at the particles after step k, and add to their log weights."""
        sigma, below, safe_below = self.levels(k)
        last = below == 0
        now = jax.lax.cond(
            last,
            lambda: seen._replace(paid=_paid(self.reward, moved)),
            lambda: self.look(moved, safe_below),
        )
        now = now._replace(paid=jnp.where(is_last, now.paid, _hopeful(now).paid))
        # By the trapezium in log v, in which the rate times v is smooth.
        both = 0.5 * (seen.growth * sigma**2 + now.growth * safe_below**2)
        passed = 2 * jnp.log(sigma / safe_below)
        grown = jnp.where(last, seen.growth * sigma**2, both * passed)
        return now, grown + now.paid - seen.paid


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


def _paid(reward: Reward | None, x: Array) -> Array:
    return jnp.zeros(len(x), x.dtype) if reward is None else reward(x)


def _hopeful(seen: _Seen) -> _Seen:
    """Pay 0 for a guess of -inf: only at the end it is known that nothing is left."""
    return seen._replace(paid=jnp.where(seen.paid == -jnp.inf, 0.0, seen.paid))


def _check_powers(experts: Sequence[Expert]) -> None:
    known = [known_values(e.power) for e in experts]
    powers = [p for p in known if p is not None]
    total = float(sum(p.sum() for p in powers))
    if len(powers) == len(known) and not (math.isfinite(total) and total > 0):
        numbers = [p.tolist() for p in powers]
        raise ValueError(f"powers must sum to more than 0, got {numbers}.")


def effective_size(log_weights: Array) -> Array:
    """(sum w)^2 / sum w^2: how many particles of equal weight say as much."""
    total = jax.nn.logsumexp(log_weights)
    size = jnp.exp(2 * total - jax.nn.logsumexp(2 * log_weights))
    return jnp.where(total == -jnp.inf, 0.0, size)


def systematic(key: Key, log_weights: Array) -> Array:
    """Draw as many particles by their weights: an even comb with one random shift.

    Particle i is drawn floor or ceil(n w_i) times (Kitagawa 1996).
    """
    num = len(log_weights)
    edges = jnp.cumsum(jax.nn.softmax(log_weights))
    comb = (jnp.arange(num, dtype=edges.dtype) + jr.uniform(key, (), edges.dtype)) / num
    comb = comb.clip(jnp.finfo(comb.dtype).tiny)  # 0 would find a weight of 0
    return jnp.searchsorted(edges / edges[-1], comb).clip(0, num - 1)


def resample(key: Key, steered: Steered) -> Array:
    """Particles of equal weight, [particles, *dims], drawn from weighted ones.

    They are NaN where no particle has any weight.
    """
    chosen = steered.x[systematic(key, steered.log_weights)]
    return jnp.where(jnp.isnan(steered.log_weights).any(), jnp.nan, chosen)
