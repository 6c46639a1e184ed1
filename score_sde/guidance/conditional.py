"""Guidance towards a condition, by the model itself or by a classifier.

Bayes' rule for scores, in terms of denoisers: with D_u the unconditional one,

    D_c = D_u + sigma^2 grad log p(c given x, sigma)

so that D_c - D_u is the direction in which c becomes likelier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import as_labels, example_keys, expand_like, where_example
from score_sde.checks import check_grid
from score_sde.fields import checks_rules
from score_sde.guidance.guided import (
    Branches,
    Guided,
    Pair,
    Weight,
    check_weight,
    combine,
    linear,
    network_evals,
    weight_at,
)
from score_sde.guidance.needs import needs_condition
from score_sde.rules import Finite, Share
from score_sde.samplers.grids import share_of_step
from score_sde.types import NO_LABEL, Array, Denoise, Grid, Key, Scalar

LabelLogProb = Callable[[Array, Scalar, Any], Array]
"""(x, sigma, cond) -> log p(cond given x at noise level sigma) in nats, [batch]."""


def null_condition(cond: Any) -> Any:
    """Make the condition that says nothing: labels and tokens -1, all others 0."""

    def nothing(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        integer = jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.full_like(leaf, NO_LABEL if integer else 0)

    return jax.tree.map(nothing, cond)


def drop_condition(key: Key, cond: Any, share: float) -> Any:
    """Tell a share of the examples nothing, so that one network learns both (Ho 2022).

    The coin of example i is a function of (key, i).

    Args:
        key: one key, or one per example.
        cond: a pytree whose leaves are [batch, ...].
        share: the probability, from 0 to 1, that an example is told nothing.
    """
    (batch,) = {len(leaf) for leaf in jax.tree.leaves(cond)}
    coins = jax.vmap(lambda key: jr.bernoulli(key, share))(example_keys(key, batch))

    def dropped(leaf: Array, null: Array) -> Array:
        return where_example(~coins, leaf, null)

    return jax.tree.map(dropped, cond, null_condition(cond))


def without_condition(denoise: Denoise) -> Guided:
    """Make an unconditional denoiser, for a classifier: never tell it a condition."""
    return Guided(
        lambda x, sigma, cond=None: denoise(x, sigma),
        lambda sigma: network_evals(denoise, sigma),
    )


@needs_condition()
@checks_rules
def classifier_free(
    denoise: Denoise,
    weight: Weight,
    *,
    negative: Any = null_condition,
    rescale: Annotated[float, Share] = 0.0,
    one_call: bool = True,
) -> Guided:
    """Guide away from the unconditional model: D_n + w (D_c - D_n).

    Source: Ho and Salimans 2022 (their w is w - 1 here).

    Args:
        denoise: a model that was trained with and without its condition.
        weight: a number, or a function of sigma such as `interval`.
        negative: what to go away from: a function of the condition, or a condition
            with leaves [1, ...] or [batch, ...].
        rescale: share of a correction that gives the result the standard deviation of
            D_c in each example, against the contrast that large weights bring (Lin et
            al. 2023, eq. 15-16).
        one_call: evaluate both conditions as one batch of twice the size, which keeps
            an accelerator busier; else one after the other, in half the memory.

    Raises: ValueError for a weight that is not finite and a rescale outside [0, 1];
        when called, without a condition, or with a negative one of another structure.
    """

    def restore_contrast(at: Branches) -> Array:
        mixed = linear(at)
        if rescale == 0:
            return mixed
        axes = tuple(range(1, mixed.ndim))
        wanted, has = (a.var(axes, keepdims=True) for a in (at.target, mixed))
        # Where nothing varies, as in an example of one pixel, there is no contrast.
        varies = (wanted > 0) & (has > 0)
        wanted, has = (jnp.where(varies, a, 1.0) for a in (wanted, has))
        ratio = jnp.sqrt(wanted / has)
        return mixed * (1 - rescale + rescale * ratio)

    branches = two_branches(denoise, negative, one_call=one_call)
    return combine(*branches, weight, restore_contrast)


def two_branches(
    denoise: Denoise, negative: Any = null_condition, *, one_call: bool = True
) -> tuple[Pair, Denoise, Denoise]:
    """Both branches at once, the conditional one, and the one to go away from.

    Args:
        denoise: a model that was trained with and without its condition.
        negative: as in `classifier_free`.
        one_call: as in `classifier_free`.

    Raises: ValueError, when they are called, without a condition, or with a negative
        one of another structure.
    """

    def unconditional(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return denoise(x, sigma, _negative(negative, cond, len(x)))

    def conditional(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return denoise(x, sigma, require_condition(cond))

    def both(x: Array, sigma: Scalar, cond: Any) -> tuple[Array, Array]:
        conds = [require_condition(cond), _negative(negative, cond, len(x))]
        target, base = under_each(denoise, x, sigma, conds, one_call=one_call)
        return target, base

    cost = lambda sigma: network_evals(denoise, sigma)  # noqa: E731
    return both, Guided(conditional, cost), Guided(unconditional, cost)


@needs_condition()
@checks_rules
def plus_plus(
    denoise: Denoise,
    weight: Annotated[float, Finite],
    *,
    grid: Grid,
    negative: Any = null_condition,
    one_call: bool = True,
) -> Guided:
    """Step to the guided x0 with the noise of the other branch (Chung 2024, 'CFG++').

    A step of DDIM from sigma to sigma_next goes to D_g + sigma_next eps_n, with
    D_g = D_n + w (D_c - D_n) and eps_n = (x - D_n) / sigma, alg. 2. That is the step of
    `classifier_free` with the weight w / (1 - sigma_next / sigma), which is how it is
    computed: exact for Euler's and DDIM's steps on the grid. In the step to 0 the
    weight is w, so that w = 1 is the conditional DDIM there alone; before, it is the
    larger, the finer the grid.

    Args:
        denoise: a model that was trained with and without its condition.
        weight: the paper's lambda, from 0 to 1, where 0 is the other branch alone.
        grid: the noise levels that are sampled on, [num_steps + 1].
        negative: as in `classifier_free`.
        one_call: as in `classifier_free`.

    Raises: ValueError for a weight that is not finite and a grid that does not
        decrease; when called, without a condition.
    """
    check_grid(grid)

    def schedule(sigma: Array) -> Array:
        return weight / share_of_step(grid, sigma)

    return classifier_free(denoise, schedule, negative=negative, one_call=one_call)


@needs_condition()
def compose(
    denoise: Denoise, weights: Sequence[Weight], *, one_call: bool = True
) -> Guided:
    """Guide to several conditions at once, as a product of experts (Liu et al. 2022).

    D_u + sum_i w_i (D_ci - D_u), for the density p(x) prod_i (p(x given c_i) / p(x))^wi
    at each noise level. With weights 1 that is p(x given all c_i) if they are
    independent given x plus noise; else it is an approximation. A negative weight
    leads away from its condition.

    The condition of the result is a sequence of conditions, one for each weight.

    Args:
        denoise: a model that was trained with and without its condition.
        weights: numbers, or functions of sigma.
        one_call: as in `classifier_free`.

    Raises: ValueError for a weight that is not finite; when called, without conditions
        or with another number of them.
    """
    weights = [check_weight(w) for w in weights]

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        conds = list(require_condition(cond))
        if len(conds) != len(weights):
            raise ValueError(
                f"{len(weights)} weights need as many conditions, got {len(conds)}."
            )
        conds.append(null_condition(conds[0]))
        *targets, base = under_each(denoise, x, sigma, conds, one_call=one_call)
        steps = [
            expand_like(weight_at(w, sigma), x) * (target - base)
            for w, target in zip(weights, targets, strict=True)
        ]
        return base + sum(steps, jnp.zeros_like(base))

    def evals(sigma: Array) -> Array:
        return (len(weights) + 1) * network_evals(denoise, sigma)

    return Guided(guided, evals)


@needs_condition()
def classifier(denoise: Denoise, log_prob: LabelLogProb, weight: Weight) -> Guided:
    """Guide by a classifier of noisy data: D + w sigma^2 grad log p(c given x, sigma).

    At w = 1 and with the exact classifier this is the conditional denoiser. The
    classifier's forward and backward pass come on top of the counted evaluations.

    Source: Dhariwal and Nichol 2021, eq. 14.

    Args:
        denoise: a model that is told the condition too; of an unconditional network,
            give `without_condition(denoise)`.
        log_prob: log p(c given x, sigma) in nats, [batch].
        weight: a number, or a function of sigma. Where that gives 0, the classifier is
            not evaluated.

    Raises: ValueError for a weight that is not finite; when called, without a
        condition.
    """
    weight = check_weight(weight)

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        def step() -> Array:
            slope = jax.grad(lambda x: log_prob(x, sigma, cond).sum())(x)
            scale = expand_like(weight_at(weight, sigma), x)
            return scale * expand_like(sigma, x) ** 2 * slope

        cond = require_condition(cond)
        x0 = denoise(x, sigma, cond)
        if not callable(weight):
            return x0 + step()
        off = (weight_at(weight, sigma) == 0).all()
        return x0 + jax.lax.cond(off, lambda: jnp.zeros_like(x), step)

    return Guided(guided, lambda sigma: network_evals(denoise, sigma))


def from_logits(logits: Callable[[Array, Scalar], Array]) -> LabelLogProb:
    """Make log p(label given x) of logits(x, sigma), [batch, classes]; else 0."""

    def log_prob(x: Array, sigma: Scalar, cond: Any) -> Array:
        every = jax.nn.log_softmax(logits(x, sigma))
        label = as_labels(cond["label"], every.shape[-1])
        picked = jnp.take_along_axis(every, label[:, None], axis=1)[:, 0]
        return jnp.where(label == NO_LABEL, jnp.zeros_like(picked), picked)

    return log_prob


def under_each(
    denoise: Denoise, x: Array, sigma: Scalar, conds: Sequence[Any], *, one_call: bool
) -> list[Array]:
    """Evaluate D(x, sigma, c) for each condition c, in one call if wanted."""
    if not one_call:
        return [denoise(x, sigma, cond) for cond in conds]
    # The copies of an example stand side by side, so that a batch that is cut over
    # devices stays where it is.
    num = len(conds)
    stacked = jax.tree.map(lambda *leaves: _side_by_side(*leaves), *conds)
    level = jnp.asarray(sigma, x.dtype)
    level = jnp.repeat(level, num) if level.ndim else level
    out = denoise(_side_by_side(*[x] * num), level, stacked)
    out = out.reshape(len(x), num, *x.shape[1:])
    return [out[:, i] for i in range(num)]


def _side_by_side(*leaves: Array) -> Array:
    stacked = jnp.stack(leaves, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def require_condition(cond: Any) -> Any:
    """Return the condition itself, if there is one.

    Raises: ValueError if it is None.
    """
    if cond is None:
        raise ValueError("guidance needs a condition, but cond is None.")
    return cond


def _negative(negative: Any, cond: Any, batch: int) -> Any:
    """The negative condition, made of the condition or broadcast to its shape.

    Raises: ValueError for one with other parts than the condition.
    """
    if callable(negative):
        return negative(require_condition(cond))
    parts, given = (str(jax.tree.structure(c)) for c in (cond, negative))
    if parts != given:
        raise ValueError(
            f"the negative condition is {given}, the condition {parts}; they must have "
            "the same parts."
        )

    def whole(leaf: Array, like: Array) -> Array:
        leaf = jnp.asarray(leaf, jnp.asarray(like).dtype)
        return jnp.broadcast_to(leaf, (batch, *leaf.shape[1:]))

    return jax.tree.map(whole, negative, cond)
