"""Guidance towards a condition, by the model itself or by a classifier.

Bayes' rule for scores, in terms of denoisers: with D_u the unconditional one,

    D_c = D_u + sigma^2 grad log p(c given x, sigma)

so that D_c - D_u is the direction in which c becomes likelier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import example_keys, expand_like, where_example
from score_sde.guidance.guided import (
    Guided,
    Weight,
    checked,
    combine,
    network_evals,
    weight_at,
)
from score_sde.types import NO_LABEL, Array, Denoise, Key, Scalar

LogProb = Callable[[Array, Scalar, Any], Array]
"""(x, sigma, cond) -> log p(cond given x at noise level sigma) in nats, [batch]."""


def null_condition(cond: Any) -> Any:
    """The condition that says nothing: labels and tokens -1, vectors and images 0."""

    def absent(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        integer = jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.full_like(leaf, NO_LABEL if integer else 0)

    return jax.tree.map(absent, cond)


def drop_condition(key: Key, cond: Any, share: float) -> Any:
    """Training's condition, with a share of the examples told nothing (Ho 2022).

    So that one network learns both. The coin of example i is a function of (key, i).
    """
    (batch,) = {len(leaf) for leaf in jax.tree.leaves(cond)}
    coins = jax.vmap(lambda key: jr.bernoulli(key, share))(example_keys(key, batch))

    def dropped(leaf: Array, null: Array) -> Array:
        return where_example(~coins, leaf, null)

    return jax.tree.map(dropped, cond, null_condition(cond))


def without_condition(denoise: Denoise) -> Guided:
    """The denoiser, told nothing: an unconditional network beside a classifier."""
    return Guided(
        lambda x, sigma, cond=None: denoise(x, sigma),
        lambda sigma: network_evals(denoise, sigma),
    )


def classifier_free(
    denoise: Denoise,
    weight: Weight,
    *,
    negative: Any = null_condition,
    rescale: float = 0.0,
    one_call: bool = True,
) -> Guided:
    """Away from the unconditional model (Ho and Salimans 2022): D_n + w (D_c - D_n).

    Args:
        weight: a number, or a function of sigma such as `interval`.
        negative: what to go away from: a function of the condition, or a condition
            with leaves [1, ...] or [batch, ...].
        rescale: share of a correction that gives the result the standard deviation of
            D_c in each example, against the contrast that large weights bring (Lin et
            al. 2023, eq. 15-16).
        one_call: evaluate both conditions as one batch of twice the size, which keeps
            an accelerator busier; else one after the other, in half the memory.
    Raises: ValueError for a weight or rescale that is not finite; when called, without
        a condition, or with a negative one of another structure.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale is {rescale}; it must be from 0 to 1.")

    def away(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return denoise(x, sigma, _negative(negative, cond, len(x)))

    def pair(x: Array, sigma: Scalar, cond: Any) -> tuple[Array, Array]:
        conds = [present(cond), _negative(negative, cond, len(x))]
        there, here = under_each(denoise, x, sigma, conds, one_call=one_call)
        return there, here

    def aim(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        return denoise(x, sigma, present(cond))

    def finish(mixed: Array, there: Array) -> Array:
        if rescale == 0:
            return mixed
        axes = tuple(range(1, mixed.ndim))
        ratio = there.std(axes, keepdims=True) / mixed.std(axes, keepdims=True)
        return mixed * (1 - rescale + rescale * ratio)

    cost = lambda sigma: network_evals(denoise, sigma)  # noqa: E731
    return combine(pair, Guided(aim, cost), Guided(away, cost), weight, finish)


def compose(
    denoise: Denoise, weights: Sequence[Weight], *, one_call: bool = True
) -> Guided:
    """Several conditions at once, as a product of experts (Liu et al. 2022).

    D_u + sum_i w_i (D_ci - D_u), for the density p(x) prod_i (p(x given c_i) / p(x))^wi
    at each noise level. With weights 1 that is p(x given all c_i) if they are
    independent given x plus noise; else it is an approximation. A negative weight
    leads away from its condition.

    The condition of the result is a sequence of conditions, one for each weight.
    """
    weights = [checked(w) for w in weights]

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        conds = list(present(cond))
        if len(conds) != len(weights):
            raise ValueError(
                f"{len(weights)} weights need as many conditions, got {len(conds)}."
            )
        conds.append(null_condition(conds[0]))
        *there, here = under_each(denoise, x, sigma, conds, one_call=one_call)
        steps = [
            expand_like(weight_at(w, sigma), x) * (d - here)
            for w, d in zip(weights, there, strict=True)
        ]
        return here + sum(steps, jnp.zeros_like(here))

    def evals(sigma: Array) -> Array:
        return (len(weights) + 1) * network_evals(denoise, sigma)

    return Guided(guided, evals)


def classifier(denoise: Denoise, log_prob: LogProb, weight: Weight) -> Guided:
    """D + w sigma^2 grad log p(c given x, sigma) (Dhariwal and Nichol 2021, eq. 14).

    At w = 1 and with the exact classifier of noisy data, the conditional denoiser.
    The classifier's forward and backward pass come on top of the counted evaluations.

    Args:
        denoise: is told the condition too; of an unconditional network, give
            `without_condition(denoise)`.
        weight: where a function of sigma gives 0, the classifier is not evaluated.
    """
    weight = checked(weight)

    def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
        def step() -> Array:
            slope = jax.grad(lambda x: log_prob(x, sigma, cond).sum())(x)
            scale = expand_like(weight_at(weight, sigma), x)
            return scale * expand_like(sigma, x) ** 2 * slope

        cond = present(cond)
        x0 = denoise(x, sigma, cond)
        if not callable(weight):
            return x0 + step()
        off = (weight_at(weight, sigma) == 0).all()
        return x0 + jax.lax.cond(off, lambda: jnp.zeros_like(x), step)

    return Guided(guided, lambda sigma: network_evals(denoise, sigma))


def from_logits(logits: Callable[[Array, Scalar], Array]) -> LogProb:
    """log p(label given x) from logits(x, sigma), [batch, classes]; 0 for no label."""

    def log_prob(x: Array, sigma: Scalar, cond: Any) -> Array:
        label = cond["label"]
        every = jax.nn.log_softmax(logits(x, sigma))
        picked = jnp.take_along_axis(every, label[:, None], axis=1)[:, 0]
        return jnp.where(label == NO_LABEL, jnp.zeros_like(picked), picked)

    return log_prob


def under_each(
    denoise: Denoise, x: Array, sigma: Scalar, conds: Sequence[Any], *, one_call: bool
) -> list[Array]:
    """D(x, sigma, c) for each condition c."""
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


def present(cond: Any) -> Any:
    """The condition, if there is one.

    Raises: ValueError.
    """
    if cond is None:
        raise ValueError("guidance needs a condition, but cond is None.")
    return cond


def _negative(negative: Any, cond: Any, batch: int) -> Any:
    """The negative condition in the shape of the condition."""
    if callable(negative):
        return negative(present(cond))
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
